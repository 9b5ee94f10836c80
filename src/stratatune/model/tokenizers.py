"""Check that a tokenizer belongs to its model, and that it still reads texts as it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stratatune.errors import DataError, ModelError
from stratatune.hashing import fast_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBES = {
    "plain words": "the film was very good and the book is new",
    "capitals": "Paris Is A GREAT City McDonald iPhone",
    "accents": "caf\u00e9 na\u00efve \u00fcber \u00c5ngstr\u00f6m e\u0301t\u00e9",
    "digits and punctuation": "In 1984, it cost $3.50 (or more?)! e-mail: a.b@c.org; don't -- \u201cquote\u201d",
    "blanks": "  two  blanks\ta tab\nand a line ",
    "other scripts": "\u6771\u4eac \u041c\u043e\u0441\u043a\u0432\u0430 \u0627\u0644\u0642 \U0001f600",
}
"""Texts that show how a tokenizer normalises and splits text and adds special tokens."""
_MANY_UNKNOWN = 0.03
_FEWEST = 3
"""The fewest tokens besides special ones: an empty tokenizer may have a lone blank; DNA has four bases."""


def reading_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """A description of how a tokenizer encodes texts: a hash of its vocabulary, and of the ids of each probe.

    Behaviour is compared, not files, which libraries write differently from version to version.
    """
    own: Any = tokenizer  # its class leaves these methods to its subclasses, and types them as tokens
    words = sorted(own.get_vocab().items())
    found = {"words": _hash(words), "number of words": str(len(words))}
    for name, text in _PROBES.items():
        found[name] = _hash(own(text, verbose=False)["input_ids"])
    found["texts that are too long"] = _hash(own.truncation_side)
    return found | {"pairs": _hash(sorted((key, list(value)) for key, value in own("one", "two").items()))}


def check_reading(written: Mapping[str, str], tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer that reads texts differently from the one of training.

    Raises:
        ModelError: names the texts that it reads differently.
    """
    found = reading_of(tokenizer)
    odd = [part for part, was in written.items() if found.get(part, was) != was]
    if "number of words" in odd:
        odd = [f"its vocabulary has {found['number of words']} words instead of {written['number of words']}"]
    elif "words" in odd:
        odd = ["its vocabulary has other words, or other ids for them"]
    elif odd:
        odd = [f"it reads {', '.join(odd)} differently"]
    if odd:
        raise ModelError(
            f"the tokenizer of {name!r} is not the one that this adapter was trained with: {odd[0]}",
            "give a base whose tokenizer files are those of training: --base FOLDER",
        )


def check_words(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer that knows no words, or that cannot read a text.

    transformers 5 makes an empty tokenizer of the model's kind where a folder has no tokenizer files, and one that
    fails at the first unknown word where they are another kind's.

    Raises:
        ModelError: names the missing files, or what the tokenizer says.
    """
    own: Any = tokenizer
    special = {*own.get_added_vocab(), *own.all_special_tokens}
    if len(own.get_vocab().keys() - special) < _FEWEST:
        raise ModelError(
            f"the tokenizer of {name!r} has an empty vocabulary ({len(tokenizer):,} tokens): are its files missing?",
            "put tokenizer.json and tokenizer_config.json (or vocab.txt, or vocab.json and merges.txt) into it",
        )
    for text in _PROBES.values():
        try:
            own(text, verbose=False)
        except Exception as error:  # the tokenizers library raises Exception itself
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise ModelError(
                f"the tokenizer of {name!r} cannot read texts: {said}",
                "its files belong to several models: put all of one model's tokenizer files into the folder",
            ) from error


def check_rows(tokenizer: PreTrainedTokenizerBase, rows: int, name: str) -> None:
    """Refuse a tokenizer with words that have no row in the embeddings.

    Added tokens that are in a text only if it spells them out (Gemma's image token) pass: :func:`check_ids` finds them
    there.

    Raises:
        ModelError: names the token and both numbers.
    """
    own: Any = tokenizer
    added, used = set(own.get_added_vocab()), _put_into_texts(tokenizer)
    words = {word: number for word, number in own.get_vocab().items() if word not in added or number in used}
    # The largest number, not the count: a vocabulary may have gaps.
    word, largest = max(words.items(), key=lambda item: item[1])
    if largest >= rows:
        raise ModelError(
            f"the tokenizer of {name!r} does not fit the model: {word!r} is token {largest:,}, "
            f"but the embeddings have {rows:,} rows",
            "give the tokenizer that the model was trained with, or resize_token_embeddings and save both",
        )


def check_ids(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, rows: int, source: str) -> None:
    """Refuse texts that hold an added token without a row in the embeddings.

    Raises:
        DataError: names the token.
    """
    largest = int(ids.max(initial=0))
    if largest >= rows:
        word = tokenizer.convert_ids_to_tokens(largest)
        raise DataError(
            f"{source}: a text holds {word!r}, token {largest:,}, but the model's embeddings have {rows:,} rows",
            "remove it from the texts, or use a model that has a row for it",
        )


def unknown_words(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, source: str) -> list[str]:
    """A notice where more than a few per cent of the tokens are unknown words; else nothing."""
    own: Any = tokenizer
    unknown = own.unk_token_id
    # Where the unknown token is also the end of text or the padding (GPT-2), no word ever becomes it.
    others = {own.eos_token_id, own.bos_token_id, own.pad_token_id}
    if unknown is None or unknown in others or not len(ids):
        return []
    share = float(np.count_nonzero(ids == unknown)) / len(ids)
    # A few unknown words are normal in any text; many mean the wrong language or the wrong tokenizer.
    if share <= _MANY_UNKNOWN:
        return []
    return [f"{source}: {share:.0%} of the tokens are words that the tokenizer does not know (read as unknown)"]


def _put_into_texts(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The special tokens that are put around or into every text."""
    named = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
    return {number for one in named if (number := getattr(tokenizer, f"{one}_token_id", None)) is not None}


def _hash(value: object) -> str:
    return fast_digest([repr(value)], bits=64)
