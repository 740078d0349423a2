"""Components that know which sentence stands where, so that a visitor can change the language of an open page."""

from collections.abc import Sequence
from typing import Any, Final

import gradio as gr

from service.ui.words import Words, words

ATTRIBUTES: Final = ("label", "info", "placeholder", "value")


def names(**options: Any) -> gr.Dropdown:
    """A dropdown of names that the service tells.

    Gradio would hold a value against the choices that its process remembers, and after a restart it remembers none. So
    it takes any: the service checks every name that it is sent, and says what there is.
    """
    return gr.Dropdown(**{"allow_custom_value": True, **options})


class Texts:
    """Makes components from keys of sentences, and gives what changes with the language."""

    def __init__(self) -> None:
        self._say = words("en")
        self._slots: list[tuple[Any, dict[str, str], Sequence[tuple[str, Any]] | None]] = []

    def __call__(
        self, kind: Any, *arguments: Any, choices: Sequence[Any] | None = None, t: str = "", **options: Any
    ) -> Any:
        """A component of ``kind``. ``t`` is the key of its label (a button's or a heading's value).

        ``<t>.info`` and ``<t>.placeholder`` are used where they exist. ``choices`` may hold (key, value) pairs
        whose keys begin with a dot below ``t``.
        """
        keys = {}
        if t:
            keys["value" if kind in (gr.Button, gr.Markdown) else "label"] = t
            for attribute in ("info", "placeholder"):
                if self._say.get(f"{t}.{attribute}") is not None:
                    keys[attribute] = f"{t}.{attribute}"
        named = None
        if choices is not None:
            if choices and isinstance(choices[0], tuple) and str(choices[0][0]).startswith("."):
                named = [(t + key, value) for key, value in choices]
                options["choices"] = self._choices(named, self._say)
            else:
                options["choices"] = list(choices)
        options |= {attribute: self._say(key) for attribute, key in keys.items()}
        component = kind(*arguments, **options)
        if keys:
            self._slots.append((component, keys, named))
        return component

    @property
    def components(self) -> list[Any]:
        """All that speak."""
        return [component for component, _, _ in self._slots]

    def updates(self, say: Words) -> list[Any]:
        """What changes for ``say``, in the order of :attr:`components`."""
        return [
            _update(
                {attribute: say(key) for attribute, key in keys.items()}
                | ({"choices": self._choices(named, say)} if named else {})
            )
            for _, keys, named in self._slots
        ]

    @staticmethod
    def _choices(named: Sequence[tuple[str, Any]], say: Words) -> list[tuple[str, Any]]:
        return [(say(key), value) for key, value in named]


def _update(attributes: dict[str, Any]) -> Any:
    return gr.update(**attributes)
