"""Export a folder that sentence-transformers loads, with equal vectors or scores. No torch on import."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stratatune.exits.reading import quoted
from stratatune.objectives.sentence_folder import POOLING_NAMES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stratatune.model.attach import Tuned
    from stratatune.model.attached import Attached

_READING = "sentence_transformers"
"""The name, in an objective's saved data, of the data for these files."""
_TYPES = "sentence_transformers.models"
_QUERY, _DOCUMENT = "query", "document"


class SentenceTransformers:
    """The merged model, with the files by which sentence-transformers pools its output.

    The files have the layout that every version since 2.0 reads.
    """

    name: ClassVar[str] = "sentence-transformers"
    summary: ClassVar[str] = "a folder for sentence-transformers, from the objectives vectors and rank"
    extra: ClassVar[str | None] = None
    whole: ClassVar[bool] = False
    reader: ClassVar[str] = "sentence-transformers' SentenceTransformer({out!r}) or CrossEncoder({out!r})"
    library: ClassVar[str] = "sentence-transformers"

    def code(self, attached: Attached, base: str, place: str) -> list[str]:
        """Load it by the class of its objective."""
        known = attached.spec.get(_READING) or {}
        kind = "SentenceTransformer" if "pooling" in known else "CrossEncoder"
        return [f"from sentence_transformers import {kind}", "", f"model = {kind}({quoted(place)})"]

    def refusals(self, attached: Attached) -> list[str]:
        """The reasons why the model cannot be merged, or its objective has no class in sentence-transformers."""
        from stratatune.model.merging import refusals

        known = isinstance(attached.spec.get(_READING), dict)
        found = [] if known else ["its objective has no class in sentence-transformers"]
        if known and attached.spec[_READING].get("kind") == "rank" and "joined_by" not in attached.spec[_READING]:
            found.append("a CrossEncoder reads pairs of texts, and this model has learned texts alone")
        if known and attached.spec[_READING].get("joined_by"):
            found.append(
                "a CrossEncoder puts no line break between the query and the text, which this decoder has learned"
            )
        return [*found, *refusals(attached)]

    def write(self, model: Tuned, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
        """Write the model in the dtype of the base's checkpoint, as ``merged`` does: of one in fp32 outputs are equal.

        Where documents keep the vectors of the base model, that is written too: ``encode_query`` then runs the tuned
        model and ``encode_document`` the base.
        """
        from stratatune.exits.tokenizers import tokenizer_of
        from stratatune.files import write_errors, write_text
        from stratatune.model.base import load_base
        from stratatune.model.merging import merge
        from stratatune.model.sharding import write_model
        from stratatune.model.unread import Unread

        tokenizer = tokenizer or tokenizer_of(model.attached)
        how, origin, unread = model.attached.spec[_READING], model.attached.origin, Unread.of(model)
        dtype = origin.checkpoint_dtype()
        models: dict[str, Any] = {_QUERY if how.get("query_only") else "": merge(model)}
        if how.get("query_only"):
            models[_DOCUMENT] = load_base(origin.path or origin.name, "none", revision=origin.revision or None).model
        with write_errors(folder):
            for side, plain in models.items():
                for name, value in how.get("config", {}).items():
                    setattr(plain.config, name, value)
                own = folder / f"{side}_0_Transformer" if side else folder
                write_model(plain, None if side == _DOCUMENT else unread, own, dtype)
                if tokenizer is not None:
                    cut = copy.deepcopy(tokenizer)
                    cut.model_max_length = how["max_length"]
                    cut.save_pretrained(own)
            for file, content in _files(how, models[next(iter(models))].config.hidden_size, [*models]):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                write_text(folder / file, json.dumps(content, indent=2) + "\n")


def _files(how: Mapping[str, Any], width: int, sides: list[str]) -> Iterator[tuple[str, Any]]:
    """The files besides the models: modules, and the settings of each. None for a model with its own head."""
    if "pooling" not in how:
        return
    unnamed = how.get("unnamed", _DOCUMENT)  # the side of `encode`; folders of older versions do not say
    kinds = ["Transformer", "Pooling", *(["Normalize"] if how["normalise"] else [])]
    modes = {"cls": "cls_token", "mean": "mean_tokens", "lasttoken": "lasttoken"}
    chosen = POOLING_NAMES[how["pooling"]]
    flags = {f"pooling_mode_{theirs}": mode == chosen for mode, theirs in modes.items()}
    pooling = {"word_embedding_dimension": width, **flags, "include_prompt": True}
    for side in sides:
        before = f"{side}_" if side else ""
        yield f"{before}1_Pooling/config.json", pooling
        if side and how["normalise"]:
            yield f"{before}2_Normalize/config.json", {}
        own = f"{before}0_Transformer/" if side else ""
        yield f"{own}sentence_bert_config.json", {"max_seq_length": how["max_length"], "do_lower_case": False}
    if sides == [""]:
        paths = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds) if number)]
        yield "modules.json", [_module(*one) for one in zip(range(len(kinds)), paths, kinds, strict=True)]
    else:
        chains = {side: [f"{side}_{number}_{kind}" for number, kind in enumerate(kinds)] for side in sides}
        types = {one: f"{_TYPES}.{one.rpartition('_')[2]}" for chain in chains.values() for one in chain}
        settings = {"default_route": unnamed, "allow_empty_key": True}
        yield "modules.json", [_module(0, "", "Router")]
        yield "router_config.json", {"types": types, "structure": chains, "parameters": settings}
    yield (
        "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "prompts": how["prompts"],
            "default_prompt_name": unnamed if how["prompts"].get(unnamed) else None,
            "similarity_fn_name": "cosine",
        },
    )


def _module(number: int, path: str, kind: str) -> dict[str, Any]:
    return {"idx": number, "name": str(number), "path": path, "type": f"{_TYPES}.{kind}"}
