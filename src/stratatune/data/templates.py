"""Hard prompts: a template with one mask, and the label words that are predicted there.

A template is text with ``{a}``, for sentence pairs ``{b}``, and one ``<mask>``: ``{a} It was <mask>.`` The written
``<mask>`` stands for the mask token of whatever tokenizer is used. No torch and no transformers are imported here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stratatune.errors import DataError, cut, did_you_mean, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIELDS = ("a", "b")
MASK = "<mask>"
_SPLIT = re.compile(r"(<mask>|\{\w*\})")
_SPACE_MARKS = "Ġ▁"  # how byte-level BPE and SentencePiece write the space before a word


@dataclass(frozen=True)
class Part:
    """One piece of a template: literal text, the field a or b, or the mask."""

    kind: Literal["literal", "a", "b", "mask"]
    text: str  # as written in the template


@dataclass(frozen=True)
class Template:
    """A parsed template; ``str(Template.parse(text)) == text``."""

    parts: tuple[Part, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Parse the written form.

        Raises:
            DataError: no mask, several masks, no field, an unknown field, or a field used twice.
        """
        parts = tuple(_part(piece, text) for piece in _SPLIT.split(text) if piece)
        kinds = [part.kind for part in parts]
        if kinds.count("mask") != 1:
            found = "no mask" if "mask" not in kinds else f"{kinds.count('mask')} masks"
            raise DataError(
                f"template {text!r} has {found}", f"write {MASK} exactly once, as in '{{a}} It was {MASK}.'"
            )
        if "a" not in kinds:
            raise DataError(f"template {text!r} does not use the text", "write {a} where the text goes")
        if max(kinds.count(name) for name in FIELDS) > 1:
            raise DataError(f"template {text!r} uses a field twice", "write {a} and {b} at most once")
        return cls(parts)

    def __str__(self) -> str:
        return "".join(part.text for part in self.parts)

    @property
    def columns(self) -> int:
        """The number of text columns that it needs: 1 or 2."""
        return 2 if any(part.kind == "b" for part in self.parts) else 1

    def check(self, columns: Sequence[str]) -> None:
        """Raise DataError unless the data's text columns are as many as the template's fields."""
        if self.columns > len(columns):
            raise DataError(
                f"template {str(self)!r} uses {{b}} but the data has one text column, {columns[0]!r}",
                "name two text columns (--text a,b) or drop {b}",
            )
        if self.columns < len(columns):
            raise DataError(
                f"template {str(self)!r} leaves out the second text column, {columns[1]!r}",
                "use {b} in the template or name one text column",
            )

    def pieces(self, mask_token: str, texts: Sequence[str]) -> list[str]:
        """Fill the template's parts with one row's texts, in order; outer white space of the texts is dropped.

        Without that the trailing space of SST-2's rows would become a separate token before ``It was``.
        """
        filled = {"mask": mask_token, **{name: text.strip() for name, text in zip(FIELDS, texts, strict=False)}}
        return [filled.get(part.kind, part.text) for part in self.parts]


def _part(piece: str, text: str) -> Part:
    if piece == MASK:
        return Part("mask", piece)
    if piece == "{a}":
        return Part("a", piece)
    if piece == "{b}":
        return Part("b", piece)
    if _SPLIT.fullmatch(piece):
        raise DataError(f"template {text!r} has an unknown field {piece}", did_you_mean(piece, ("{a}", "{b}", MASK)))
    return Part("literal", piece)


def mask_of(tokenizer: PreTrainedTokenizerBase) -> tuple[str, int]:
    """The tokenizer's mask token and its id; DataError where it has none (GPT-2, Llama)."""
    token = tokenizer.mask_token
    if not isinstance(token, str):
        raise DataError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'!r} has no mask token",
            "use a masked language model (BERT, RoBERTa) or the classification objective",
        )
    return token, int(tokenizer.mask_token_id)  # type: ignore[arg-type]


def label_word_ids(tokenizer: PreTrainedTokenizerBase, words: Mapping[str, str] | Sequence[str]) -> list[int]:
    """One token id per label, in order; ``words`` is {label: word}, or a list of words that are the labels too.

    Each word is read as it is inside a sentence, that is, after a space (LPT, section on label words).

    Raises:
        DataError: a word is several tokens or unknown, or two labels share a token.
    """
    ids: dict[int, str] = {}
    named = words if isinstance(words, Mapping) else dict(zip(words, words, strict=True))
    if len(named) < len(words):
        raise DataError(
            f"a label word is used twice: {', '.join(words)}", "give every label its own with --label-words"
        )
    for label, word in named.items():
        pieces = _pieces_of(tokenizer, word)
        if len(pieces) != 1 or pieces[0] == tokenizer.unk_token_id:
            raise _several_tokens(tokenizer, label, word, pieces)
        if pieces[0] in ids:
            raise DataError(
                f"labels {shown(ids[pieces[0]])} and {shown(label)} share the label word {shown(word)}",
                "give every label its own word with --label-words",
            )
        ids[pieces[0]] = label
    return list(ids)


def auto_label_words(tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """A distinct single-token word for every label, and one notice for each that is not the label's own name.

    The name itself, else the first single-token word of it, else an unused lower-case word of the vocabulary, which
    says nothing about the class: the model then learns it from the data alone, and the notice says so.
    """
    words: dict[str, str] = {}
    notices: list[str] = []
    used: set[int] = set()
    for label in labels:
        word = next(w for w in _candidates(tokenizer, label) if _single(tokenizer, w) not in used | {None})
        used.add(_single(tokenizer, word) or 0)
        words[label] = word
        if word in _words_of(label):
            if word != label:
                notices.append(f"label {shown(label)} is read as the word {word!r}; choose another with --label-words")
        else:
            notices.append(
                f"label {shown(label)}: none of its words is one unused token of this model, so the unrelated "
                f"word {word!r} "
                f"is used; choose a word (--label-words '{cut(label)}=WORD') or use --objective classification"
            )
    return words, notices


def _words_of(label: str) -> list[str]:
    """The label itself, then the words in it."""
    return [label, *re.findall(r"[^\W_]+", label)]


def _candidates(tokenizer: PreTrainedTokenizerBase, label: str) -> Iterator[str]:
    yield from _words_of(label)
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    plain = (token.lstrip(_SPACE_MARKS) for token, _ in by_id)
    yield from (word for word in plain if len(word) > 3 and word.isascii() and word.isalpha() and word.islower())
    raise DataError(f"no unused word is left for label {shown(label)}", "name the words with --label-words")


def _single(tokenizer: PreTrainedTokenizerBase, word: str) -> int | None:
    pieces = _pieces_of(tokenizer, word)
    return pieces[0] if len(pieces) == 1 and pieces[0] != tokenizer.unk_token_id else None


def _pieces_of(tokenizer: PreTrainedTokenizerBase, word: str) -> list[int]:
    """The token ids of ``word`` after a space; a bare SentencePiece space mark before it does not count."""
    ids = tokenizer(f" {word.strip()}", add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) > 1 and tokenizer.convert_ids_to_tokens(ids[0]) == "▁":  # type: ignore[index]
        return list(ids[1:])  # type: ignore[arg-type]
    return list(ids)  # type: ignore[arg-type]


def _several_tokens(tokenizer: PreTrainedTokenizerBase, label: str, word: str, pieces: list[int]) -> DataError:
    parts = [piece.strip(_SPACE_MARKS) for piece in tokenizer.convert_ids_to_tokens(pieces)]
    return DataError(
        f"label word {shown(word)} of label {shown(label)} is not one token of this model: "
        f"{cut(' + '.join(parts)) or 'nothing'}",
        f"choose another word: --label-words {cut(label)}=WORD",
    )
