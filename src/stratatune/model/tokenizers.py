"""Whether a tokenizer belongs to its model, and whether it still reads as it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import xxhash

from stratatune.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PROBES = {
    "plain words": "the film was very good and the book is new",
    "capitals": "Paris Is A GREAT City McDonald iPhone",
    "accents": "caf\u00e9 na\u00efve \u00fcber \u00c5ngstr\u00f6m e\u0301t\u00e9",
    "digits and punctuation": "In 1984, it cost $3.50 (or more?)! e-mail: a.b@c.org; don't -- \u201cquote\u201d",
    "blanks": "  two  blanks\ta tab\nand a line ",
    "other scripts": "\u6771\u4eac \u041c\u043e\u0441\u043a\u0432\u0430 \u0627\u0644\u0642 \U0001f600",
}
"""What a tokenizer's normaliser, pre-tokenizer and special tokens are asked with."""
_FEWEST = 3
"""Tokens beside the special ones: an empty tokenizer may have a lone blank; the four bases of DNA are a vocabulary."""


def reading_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """What a tokenizer makes of texts: a hash of its words, and of the ids of each probe.

    Behaviour is compared, not files, which libraries write differently from version to version.
    """
    words = sorted(tokenizer.get_vocab().items())
    found = {"words": _hash(words), "number of words": str(len(words))}
    call: Any = tokenizer
    for name, text in _PROBES.items():
        found[name] = _hash(call(text, verbose=False)["input_ids"])
    return found | {"pairs": _hash(sorted((key, list(value)) for key, value in call("one", "two").items()))}


def check_reading(written: Mapping[str, str], tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuses a tokenizer that reads otherwise than the one of training.

    Raises:
        ModelError: names what it reads otherwise.
    """
    found = reading_of(tokenizer)
    odd = [part for part, was in written.items() if found.get(part, was) != was]
    if "number of words" in odd:
        odd = [f"it has {found['number of words']} words, and had {written['number of words']}"]
    elif odd == ["words"]:
        odd = ["its words have other numbers"]
    elif odd:
        odd = [f"it reads {', '.join(part for part in odd if part != 'words')} otherwise"]
    if odd:
        raise ModelError(
            f"the tokenizer of {name!r} is not the one that this adapter was trained with: {odd[0]}",
            "give a base whose tokenizer files are those of training: --base FOLDER, or load(..., base=FOLDER)",
        )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str) -> None:
    """Refuses a tokenizer that knows no words, or whose words the embeddings have no rows for.

    transformers 5 makes an empty tokenizer of the model's kind where a folder has no tokenizer files. Added tokens that
    no text may ever hold (Gemma's image token) are let pass: :func:`check_ids` sees them where one does.

    Raises:
        ModelError: names what is missing.
    """
    rows = model.get_input_embeddings().weight.shape[0]  # pyright: ignore[reportArgumentType]
    added = set(tokenizer.get_added_vocab())
    words = {word: number for word, number in tokenizer.get_vocab().items() if word not in added}
    if len(set(words) - set(tokenizer.all_special_tokens)) < _FEWEST:
        raise ModelError(
            f"the tokenizer of {name!r} knows no words ({len(tokenizer):,} tokens): are its files missing?",
            "put tokenizer.json and tokenizer_config.json (or vocab.txt, or vocab.json and merges.txt) into it",
        )
    special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=False))
    used = {**words, **{word: number for word, number in special.items() if number in _used(tokenizer)}}
    word, largest = max(used.items(), key=lambda item: item[1])
    if largest >= rows:
        raise ModelError(
            f"the tokenizer of {name!r} does not fit the model: {word!r} is token {largest:,}, "
            f"and the embeddings have {rows:,} rows",
            "give the tokenizer that the model was trained with, or resize_token_embeddings and save both",
        )


def _used(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The special tokens that are put around or into every text."""
    named = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
    return {number for one in named if (number := getattr(tokenizer, f"{one}_token_id", None)) is not None}


def _hash(value: object) -> str:
    return xxhash.xxh3_64(repr(value).encode()).hexdigest()
