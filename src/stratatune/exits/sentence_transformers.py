"""A folder that sentence-transformers loads, with equal vectors or scores. No torch on import."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stratatune.objectives.sentence_folder import POOLING_NAMES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stratatune.model.attach import Tuned
    from stratatune.model.attached import Attached

_READING = "sentence_transformers"
"""What an objective's saved data call that which is written here."""


class SentenceTransformers:
    """The merged model, and beside it how sentence-transformers pools what it says.

    The files have the layout that every version since 2.0 reads.
    """

    name: ClassVar[str] = "sentence-transformers"
    summary: ClassVar[str] = "a folder for sentence-transformers, from the objectives vectors and rank"
    extra: ClassVar[str | None] = None
    reader: ClassVar[str] = "sentence-transformers' SentenceTransformer({out!r}) or CrossEncoder({out!r})"

    def refusals(self, attached: Attached) -> list[str]:
        """What the merged model cannot hold, and objectives that sentence-transformers has no class for."""
        from stratatune.model.merging import refusals

        known = isinstance(attached.reading.get(_READING), dict)
        return [*([] if known else ["its objective has no class in sentence-transformers"]), *refusals(attached)]

    def write(self, model: Tuned, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
        """The model in the precision in which it computes, so that what it gives is equal to the last digits."""
        from stratatune.files import write_errors, write_text
        from stratatune.model.merging import merge

        how = model.attached.reading[_READING]
        plain = merge(model)
        for name, value in how.get("config", {}).items():
            setattr(plain.config, name, value)
        with write_errors(folder):
            plain.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.model_max_length = how["max_length"]
                tokenizer.save_pretrained(folder)
            for file, content in _files(how, plain.config.hidden_size):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                write_text(folder / file, json.dumps(content, indent=2) + "\n")


def _files(how: Mapping[str, Any], width: int) -> Iterator[tuple[str, Any]]:
    """The files beside the model: modules, and what each is told. None for a model with a head of its own."""
    if "pooling" not in how:
        return
    kinds = ["Transformer", "Pooling", *(["Normalize"] if how["normalise"] else [])]
    paths = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds) if number)]
    yield (
        "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (kind, path) in enumerate(zip(kinds, paths, strict=True))
        ],
    )
    modes = {"cls": "cls_token", "mean": "mean_tokens", "lasttoken": "lasttoken"}
    chosen = POOLING_NAMES[how["pooling"]]
    flags = {f"pooling_mode_{theirs}": mode == chosen for mode, theirs in modes.items()}
    yield "1_Pooling/config.json", {"word_embedding_dimension": width, **flags, "include_prompt": True}
    yield "sentence_bert_config.json", {"max_seq_length": how["max_length"], "do_lower_case": False}
    yield (
        "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "prompts": how["prompts"],
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )
