"""A CLIP tokenizer (byte-level BPE, lower-case, end-of-word suffix) with a small vocabulary of its own."""

import json
import random
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from .captions import Captioner, draw_colour

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train(captioner: Captioner, size: int = 4096, seed: int = 0) -> CLIPTokenizer:
    """Learns merges from captions, names and keywords; every byte is in the vocabulary, so nothing is unknown."""
    rng = random.Random(seed)
    rows = range(len(captioner.subjects))
    texts = [captioner.caption(row, draw_colour(rng), rng) for row in rows for _ in range(8)]
    for subject in captioner.subjects:
        texts += [subject.name, *subject.tags, subject.emoji] * 4
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    learner.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    reserved = 2 + len(letters)
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size - reserved,
            min_frequency=3,
            initial_alphabet=letters,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    model = json.loads(learner.to_str())["model"]
    words = list(dict.fromkeys([*letters, *(letter + "</w>" for letter in letters)]))
    known = set(words)
    words += [
        word for word, _ in sorted(model["vocab"].items(), key=lambda item: item[1]) if word not in known
    ]
    vocabulary = {word: index for index, word in enumerate([*words, START, END])}
    merges = [
        tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]
    ]
    special = {
        name: AddedToken(text, normalized=False, special=True)
        for name, text in (("bos_token", START), ("eos_token", END), ("unk_token", END), ("pad_token", END))
    }
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH, **special)


def save(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Writes tokenizer.json and, for readers of the older form, vocab.json and merges.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), "utf-8")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
