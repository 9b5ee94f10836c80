"""The text form of a plan, read by hand so that an error can point at its place.

    plan      = segment { "|" segment }
    segment   = [ "enc" | "dec" ] LAYERS method { "+" method } | "embeddings" method | insertion | head | cut
    method = KIND [ "(" option { "," option } ")" ]
    option    = NAME "=" value { "," value } | FLAG
    cut       = "cut" "(" DEPTH ")"

    0:5 frozen | 5:10 bitfit | 10: lora(rank=64, alpha=128, on=q,k,v,o) + bitfit(on=ffn,norm_ffn) | head(pooler)

``read`` gives the parts of a plan as plain values; ``schema.Plan`` puts them together.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

from stratatune.errors import PlanError, did_you_mean, shown
from stratatune.plan.layers import canonical_layers, cut_depth
from stratatune.plan.methods import BLOCK_METHODS, INSERTIONS, Full, Head, Insertion, MethodConfig
from stratatune.plan.options import OptionError, Options, peft_word

_TOKEN = re.compile(
    r"""\s*(?: (?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?:/\d+)?)
             | (?P<word>[A-Za-z_][\w-]*)
             | (?P<mark>[|+:(),=])
             | (?P<end>$)
             | (?P<other>\S) )""",
    re.VERBOSE,
)
_TRUTH = {"yes": True, "true": True, "no": False, "false": False}
STACKS = ("enc", "dec")
"""The stacks of an encoder-decoder, as a segment names them."""
_PICTURE_WIDTH = 72
_LONGEST, _MOST_DIGITS = 20_000, 18  # characters of a plan, and of a number in it
_OptionsT = TypeVar("_OptionsT", bound=Options)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int

    def __str__(self) -> str:
        return shown(self.text, 60) if self.text else "the end"


def _tokens(text: str) -> Iterator[_Token]:
    """The tokens of a text; the last one is of the kind ``end``."""
    for found in _TOKEN.finditer(text):
        kind = str(found.lastgroup)
        yield _Token(kind, found[kind], found.start(kind))


@dataclass
class Parts:
    """The parts of a plan's text, in its order."""

    strata: list[tuple[str, str, list[MethodConfig]]] = field(default_factory=list)
    insertions: list[Insertion] = field(default_factory=list)
    embeddings: Full | None = None
    head: Head | None = None
    cut: int | str | None = None


def read(text: str) -> Parts:
    """Parse the text form.

    Raises:
        PlanError: the message names the place and the word; the hint what was legal there, and a picture of the place.
    """
    if len(text) > _LONGEST:
        raise PlanError(f"the plan has {len(text):,} characters", f"legal: up to {_LONGEST:,}")
    return _Parser(text).plan()


class _Parser:
    """One pass over the tokens; every method reads one rule of the grammar above."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_tokens(text))
        self.place = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.place]

    def take(self) -> _Token:
        token = self.token
        self.place += token.kind != "end"
        return token

    def accept(self, mark: str) -> bool:
        """Skip ``mark`` if it is next."""
        found = self.token.kind == "mark" and self.token.text == mark
        self.place += found
        return found

    def fail(self, token: _Token, message: str, hint: str) -> NoReturn:
        raise PlanError(
            f"{message} at character {token.start + 1} of the plan", f"{hint}\n{_picture(self.text, token.start)}"
        )

    def plan(self) -> Parts:
        parts = Parts()
        while True:
            self.segment(parts)
            if self.token.kind == "end":
                return parts
            if not self.accept("|"):
                self.fail(
                    self.token,
                    f"{self.token} cannot follow a method",
                    "legal: '+' and a method, '|' and a segment, the end",
                )

    def segment(self, parts: Parts) -> None:
        token = self.token
        if token.kind == "number" or token.text == ":":
            parts.strata.append(("", self.layers(), self.methods()))
        elif token.text in STACKS:
            self.take()
            if not (self.token.kind == "number" or self.token.text == ":"):
                self.fail(self.token, f"{self.token} cannot follow {token}", f"legal: layers, as in {token.text} 0:3")
            parts.strata.append((token.text, self.layers(), self.methods()))
        elif token.text == "embeddings":
            self.once(parts.embeddings)
            parts.embeddings = self.options(self.take_kind({"full": Full}, "a method of the embeddings"), Full)
        elif token.text == "head":
            self.once(parts.head)
            parts.head = self.options(self.take(), Head)
        elif token.text == "cut":
            self.once(parts.cut)
            parts.cut = self.cut()
        elif token.text in INSERTIONS:
            parts.insertions.append(self.options(self.take(), INSERTIONS[token.text]))
        # The method is right and its layers are missing, so the hint shows how to write them.
        elif token.text in BLOCK_METHODS:
            self.fail(
                token,
                f"{token} has no layers",
                f"write them before it: ': {token.text}' for every block, '-1: {token.text}' for the last",
            )
        else:
            legal = ("layers such as 5:10", "embeddings", "head", "cut", *INSERTIONS)
            self.fail(token, f"{token} cannot begin a segment", did_you_mean(token.text, legal))

    def once(self, already: object) -> None:
        if already is not None:
            self.fail(self.token, f"{self.token} is given twice", "put it all into one segment")

    def take_kind(self, legal: Iterable[str], what: str) -> _Token:
        """The kind after the word at hand (``embeddings full``)."""
        self.take()
        if self.token.text not in legal:
            self.fail(self.token, f"{self.token} is not {what}", did_you_mean(self.token.text, legal))
        return self.take()

    def cut(self) -> int | str:
        """The depth at which the model ends."""
        self.take()
        place = self.tokens[min(self.place + 1, len(self.tokens) - 1)]
        if not (self.accept("(") and self.token.kind == "number"):
            self.fail(self.token, f"{self.token} cannot follow cut", "legal: a depth, as in cut(2/3) or cut(8)")
        depth = _number(self.take().text)
        if not self.accept(")"):
            self.fail(self.token, f"{self.token} cannot follow cut({depth}", "legal: ')'")
        try:
            return cut_depth(depth)
        except PlanError as error:
            self.fail(place, error.message, error.hint)

    def layers(self) -> str:
        """The slice of blocks that opens a stratum."""
        first = self.token
        while self.token.kind == "number" or self.token.text == ":":
            self.take()
        written = self.text[first.start : self.token.start].strip()
        # Checked here, where the place is known; the layers read so far are valid by themselves.
        if self.token.text == ",":
            self.fail(self.token, "',' cannot follow layers", "a stratum has one slice; write two: 1 lora | 3 lora")
        try:
            return canonical_layers(written)
        except PlanError as error:
            self.fail(first, error.message, error.hint)

    def methods(self) -> list[MethodConfig]:
        found = [self.method()]
        while self.accept("+"):
            found.append(self.method())
        return found

    def method(self) -> MethodConfig:
        token = self.take()
        if token.text in INSERTIONS:
            self.fail(token, *_own_segment(token))
        if token.text not in BLOCK_METHODS:
            near = did_you_mean(token.text, BLOCK_METHODS)
            self.fail(token, f"{token} is not a method", peft_word(token.text, near))
        return self.options(token, BLOCK_METHODS[token.text])

    def options(self, kind: _Token, cls: type[_OptionsT]) -> _OptionsT:
        """The object that a kind and the options in its brackets make."""
        places: dict[str, _Token] = {}
        values: dict[str, object] = {}
        if self.accept("("):
            while not self.accept(")"):
                self.option(kind, cls, places, values)
                if not (self.accept(",") or self.token.text == ")"):
                    self.fail(
                        self.token,
                        f"{self.token} cannot follow an option of {kind}",
                        "legal: ',' and an option, or ')'",
                    )
        try:
            return cls.model_validate(values)
        except OptionError as error:
            self.fail(places.get(error.option, kind), error.message, error.hint)

    def option(self, kind: _Token, cls: type[Options], places: dict[str, _Token], values: dict[str, object]) -> None:
        name = self.take()
        legal = cls.option_names()
        if name.text not in legal:
            near = peft_word(name.text, did_you_mean(name.text, legal))
            self.fail(name, f"{name} is not an option of {kind}", near)
        if name.text in values:
            self.fail(name, f"{name} is given twice", f"give it once in {kind}")
        is_flag = cls.model_fields[name.text].annotation is bool
        if is_flag and self.token.text != "=":
            values[name.text] = True
        elif not self.accept("="):
            self.fail(
                self.token, f"{self.token} cannot follow {name}", f"legal: '=' and a value, as in {name.text}=..."
            )
        else:
            places[name.text] = self.token
            values[name.text] = self.value(cls, name.text)

    def value(self, cls: type[Options], name: str) -> object:
        """One word or number, or all the values of an option that is a list."""
        first = self.single(name)
        if typing.get_origin(cls.model_fields[name].annotation) is not tuple:
            return first
        words = [first]
        while self.token.text == "," and not self.starts_option(cls):
            self.take()
            words.append(self.single(name))
        return words

    def starts_option(self, cls: type[Options]) -> bool:
        """Whether the comma at hand precedes the next option, and not another value of this list."""
        # A comma separates both options and the values of a list, so the token after the next one decides.
        word, after = self.tokens[self.place + 1], self.tokens[min(self.place + 2, len(self.tokens) - 1)]
        return after.text == "=" or word.text in cls.option_names()

    def single(self, name: str) -> object:
        token = self.take()
        if token.kind not in ("word", "number"):
            self.fail(token, f"{token} is not a value for {name}", "legal: a number or a word")
        if token.kind == "word":
            return _TRUTH.get(token.text, token.text)
        # Before int(), which takes quadratic time on a long text of digits.
        if len(token.text) > 2 * _MOST_DIGITS:
            self.fail(token, f"{token} is too long a number", f"legal: up to {_MOST_DIGITS} digits")
        return _number(token.text)


def _own_segment(token: _Token) -> tuple[str, str]:
    """The message and the hint for an insertion among the methods of a stratum."""
    at_input = not INSERTIONS[token.text].model_fields["depth"].is_required()
    option = "tokens=20" if at_input else "depth=12"
    where = "at the input" if at_input else "at a depth"
    return f"{token} goes {where}, not on layers", f"give it a segment of its own: | {token.text}({option})"


def _number(text: str) -> int | float | str:
    """An int, a float, or a fraction as its text."""
    if "/" in text:
        return text
    return int(text) if re.fullmatch(r"-?\d+", text) else float(text)


def _picture(text: str, place: int) -> str:
    """The text with a caret under ``place``, cut to the width of a terminal."""
    start = max(0, min(place - _PICTURE_WIDTH // 2, len(text) - _PICTURE_WIDTH))
    shown = text[start : start + _PICTURE_WIDTH]
    cut = ("..." if start else "", "..." if start + _PICTURE_WIDTH < len(text) else "")
    line = f"{cut[0]}{shown}{cut[1]}".translate({ord(c): " " for c in "\n\r\t"})
    return f"  {line}\n  {' ' * (len(cut[0]) + place - start)}^"
