"""Configs of a language model that is part of a larger one, beside towers for images and sound.

The checkpoints of Gemma 3 from 4 B on, Mistral Small 3.1 and later, and LLaVA hold several models under one config. The
language model alone is tuned: its config is ``text_config``, its weights are those under ``language_model``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stratatune.errors import ModelError, shown
from stratatune.shapes.architectures import Architecture, Config
from stratatune.shapes.table import architecture_of, is_known

_PLACES = "(?:language_model|text_model)"
_PLACE = "language_model"
_INHERITED = (
    *("tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id"),
    *("dtype", "torch_dtype", "quantization_config", "transformers_version", "_name_or_path"),
)
"""Fields that the config of the whole gives the part, where the part has none of its own."""


def part_of(config: Config) -> str:
    """The type of the larger model of which a language model is tuned; empty where the config is of one model."""
    known = is_known(_own(config).get("model_type")) and not is_known(config.get("model_type"))
    return str(config.get("model_type") or "") if known else ""


def _own(config: Config) -> Config:
    """The language model's part of a config; empty where there is none."""
    found = config.get("text_config")
    return found if isinstance(found, Mapping) else {}


def language_part(config: Config) -> Config:
    """The config of the language model alone, with every field; ``config`` itself where it is whole already."""
    own = config.get("model_type")
    if is_known(own) and architecture_of(str(own), config).completed:
        return _completed(config)
    if not part_of(config):
        return config
    inherited = {field: config[field] for field in _INHERITED if field in config}
    given: dict[str, Any] = {**inherited, **_own(config)}
    # transformers ties the output matrix of the whole by this field, whatever the part's own says.
    given |= {field: config[field] for field in ("tie_word_embeddings",) if field in config}
    return _completed(given)


def _completed(config: Config) -> Config:
    """A config with every field: published ones leave out what equals the default of its class."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    given: dict[str, Any] = dict(config)
    try:
        made = AutoConfig.for_model(**given).to_dict()
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"transformers cannot read this {shown(str(given['model_type']))} config: {said[:200]}",
            "give the config.json that transformers saves",
        ) from error
    return {**made, **{name: given[name] for name in ("_name_or_path",) if name in given}}


def names_of_part(row: Architecture) -> dict[str, str]:
    """The names of the part's weights by expressions for those in the checkpoint of the whole.

    Current versions of transformers save ``model.language_model.layers``, earlier ones ``language_model.model.layers``.
    """
    head = {rf"^(?:model\.)?{_PLACES}\.lm_head\.": "lm_head."}
    return {**head, rf"^(?:model\.)?{_PLACES}\.(?:model\.)?": f"{row.base}."}


def in_the_whole(name: str) -> str:
    """The name in the larger model of a module or tensor ``model.layers...`` of the language model."""
    return re.sub(r"^((?:base_model\.model\.)?model\.)", rf"\1{_PLACE}.", name)


def in_the_part(name: str) -> str:
    """The name in the language model of a module or tensor of the larger one; other names stay as they are."""
    return re.sub(rf"^(?:model\.)?{_PLACE}\.(?:(?=lm_head)|(?:model\.)?(?P<rest>.))", _its_own, name)


def _its_own(found: re.Match[str]) -> str:
    return f"model.{found['rest']}" if found["rest"] else ""
