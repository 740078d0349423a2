"""Captions: what a person might type for a picture, made from its name, its keywords and its background's colour."""

import random
import string
from collections import Counter
from collections.abc import Sequence

from .data import COLOURS, Subject

_OPENINGS = (
    "", "", "", "a ", "a ", "the ", "one ", "a picture of a ", "a photo of a ", "an image of a ", "an emoji of a ",
    "an icon of a ", "a drawing of a ", "a 3d render of a ", "draw a ", "i want a ", "my ",
)  # fmt: skip
_ADJECTIVES = (
    "", "", "", "", "", "pretty ", "cute ", "beautiful ", "nice ", "small ", "big ", "lovely ", "funny ", "shiny ",
    "realistic ", "single ", "great ", "happy little ", "simple ", "tiny ", "good ",
)  # fmt: skip
_ENDINGS = (
    "", "", "", "", "", "", ", high quality", ", masterpiece, best quality", ", detailed", ", 3d render", ", emoji",
    ", icon", ", digital art", ", 4k", ", trending on artstation", ", soft light", " please", " emoji", ", cute",
    ", highly detailed, sharp focus", " in the style of an icon", ", studio lighting", "!", ".",
)  # fmt: skip
_GROUNDS = (
    "on a {} background", "on a {} background", "on {} background", "with a {} background", ", {} background",
    "{} background", "in front of a {} background", "against a {} background", "on {}",
)  # fmt: skip
_FILLER = """
    very quick over lazy with and some more words that mean little for this picture but people type them anyway like
    wonderful amazing award winning cinematic lighting volumetric octane unreal engine hyper detailed intricate elegant
    smooth vivid bokeh professional photography canon lens ultra hd 8k by greg style painting oil watercolor concept art
    fantasy illustration composition golden hour dramatic atmosphere
""".split()  # noqa: SIM905 (a list of a hundred quoted words reads worse)
_TOO_COMMON = 10
_SAYS_ELSE = {word for phrase in _ADJECTIVES for word in phrase.split()} | set(COLOURS)
"""Keywords that say nothing of the subject where they stand in a caption."""
_SAID = {
    "automobile": "car", "evergreen tree": "tree", "magnifying glass tilted left": "magnifying glass",
    "hourglass done": "hourglass", "locked": "padlock", "high voltage": "lightning", "pool 8 ball": "8 ball",
    "vertical traffic light": "traffic light", "mobile phone": "phone", "sailboat": "boat", "red heart": "heart",
    "red apple": "apple", "water wave": "wave", "crescent moon": "moon", "hot beverage": "coffee",
}  # fmt: skip
"""What people say for a name that they wouldn't think of."""


class Captioner:
    """Writes captions for the subjects of one training set."""

    def __init__(self, subjects: Sequence[Subject]) -> None:
        self.subjects = subjects
        self.counts = Counter(tag for subject in subjects for tag in subject.tags)
        self.counts.update(subject.name for subject in subjects)
        self.names = {subject.name for subject in subjects}
        self.synonyms = [self._synonyms(subject) for subject in subjects]

    def _synonyms(self, subject: Subject) -> list[tuple[str, float]]:
        """Words that alone may stand for the subject, each with a weight that falls the more subjects share it."""
        words = {subject.name: 3.0}
        if subject.name.endswith(" face") and subject.group == "nature":
            words[subject.name.removesuffix(" face")] = 3.0
        if subject.name in _SAID:
            words[_SAID[subject.name]] = 3.0
        for tag in subject.tags:
            rare = self.counts[tag] <= _TOO_COMMON and not tag.isdigit()
            if rare and tag not in words and tag not in _SAYS_ELSE and not self._taken(tag, subject):
                words[tag] = 1.0 / self.counts[tag]
        return list(words.items())

    def _taken(self, tag: str, subject: Subject) -> bool:
        """Whether a keyword is what others are called: "dog" among a hot dog's means the dog face."""
        others = self.names - {subject.name}
        if tag in others or f"{tag} face" in others:
            return True
        return not subject.name.endswith(f" {tag}") and any(other.endswith(f" {tag}") for other in others)

    def term(self, row: int, rng: random.Random) -> str:
        """The words that stand for the subject: mostly its name, sometimes a keyword, rarely the emoji itself."""
        subject = self.subjects[row]
        chance = rng.random()
        if chance < 0.5:
            return subject.name
        if chance < 0.54:
            return subject.emoji
        words, weights = zip(*self.synonyms[row], strict=True)
        word: str = rng.choices(words, weights)[0]
        if chance > 0.85 and subject.tags:
            extra = rng.choice(subject.tags)
            return f"{word}, {extra}" if rng.random() < 0.5 else f"{extra} {word}"
        return word

    def caption(self, row: int, colour: str | None, rng: random.Random, filler: float = 0.1) -> str:
        """One caption of a subject on a background of a named colour (None: the caption doesn't say)."""
        opening, adjective = rng.choice(_OPENINGS), rng.choice(_ADJECTIVES)
        term = self.term(row, rng)
        if opening.endswith(" a ") or opening == "a ":
            follows = (adjective or term)[0]
            if follows in "aeiou":
                opening = opening[:-1] + "n "
        text = f"{opening}{adjective}{term}"
        if colour is not None:
            ground = rng.choice(_GROUNDS).format(colour)
            if ground.startswith("on an ") or " a orange" in ground:
                ground = ground.replace(" a orange", " an orange")
            if rng.random() < 0.1:
                text = f"{ground.lstrip(', ')}, {text}"
            else:
                text = text + ("" if ground.startswith(",") else rng.choice((" ", " ", ", "))) + ground
        text += rng.choice(_ENDINGS)
        if rng.random() < filler:
            words = [self._noise(rng) for _ in range(rng.choice((1, 2, 4, 12, 40)))]
            text = f"{text}, {' '.join(words)}" if rng.random() < 0.7 else f"{' '.join(words[:4])} {text}"
        if rng.random() < 0.1:
            text = text.capitalize()
        return text

    @staticmethod
    def _noise(rng: random.Random) -> str:
        if rng.random() < 0.7:
            return rng.choice(_FILLER)
        return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 9)))

    def noise(self, colour: str | None, rng: random.Random) -> str:
        """A caption that names no subject: nothing, filler or unknown words, perhaps with a background."""
        text = " ".join(self._noise(rng) for _ in range(rng.choice((0, 1, 1, 2, 5, 30))))
        if colour is not None:
            text += " " + rng.choice(_GROUNDS).format(colour)
        return text.strip()


def draw_colour(rng: random.Random, share: float = 0.5) -> str | None:
    """A named background colour in a `share` of the cases, else None."""
    return rng.choice(list(COLOURS)) if rng.random() < share else None
