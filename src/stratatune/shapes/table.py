"""The backbone table: every architecture that is known, and the look-up by a config's ``model_type``."""

from __future__ import annotations

from collections.abc import Mapping

from stratatune.errors import ModelError, did_you_mean
from stratatune.shapes.architectures import Architecture, Config
from stratatune.shapes.decoders import DECODERS
from stratatune.shapes.encoder_decoders import ENCODER_DECODERS
from stratatune.shapes.encoders import ENCODERS
from stratatune.shapes.expert_decoders import EXPERT_DECODERS
from stratatune.shapes.relatives import RELATIVES
from stratatune.shapes.stateful_decoders import STATEFUL_DECODERS
from stratatune.shapes.uneven_decoders import UNEVEN_DECODERS

ARCHITECTURES: tuple[Architecture, ...] = (
    *ENCODERS,
    *DECODERS,
    *RELATIVES,
    *STATEFUL_DECODERS,
    *EXPERT_DECODERS,
    *UNEVEN_DECODERS,
    *ENCODER_DECODERS,
)
"""The table: encoders, decoders, encoder-decoders. A new architecture is one more row."""

_ADDED: dict[str, Architecture] = {}


def register(row: Architecture) -> None:
    """Add a user's row for this process; it comes before the table's own row of the same model type."""
    _ADDED.update(dict.fromkeys(row.model_types, row))


def forget_architecture(model_type: str) -> None:
    """Remove a user's row of that model type."""
    _ADDED.pop(model_type, None)


def is_known(model_type: object) -> bool:
    """Whether a row lists the type."""
    return isinstance(model_type, str) and (
        model_type in _ADDED or any(model_type in row.model_types for row in ARCHITECTURES)
    )


def architecture_of(model_type: str, config: Config | None = None) -> Architecture:
    """The row for a config's ``model_type``; where there are several layouts, that of the config.

    Raises:
        ModelError: no row lists that type.
    """
    # First, as `register` promises: a user's row comes before the table's own.
    if model_type in _ADDED:
        return _ADDED[model_type]
    for row in ARCHITECTURES:
        if model_type in row.model_types and _applies(row, config or {}):
            return row
    # Once each: a type with several layouts has a row for each of them.
    legal = list(dict.fromkeys([*(name for row in ARCHITECTURES for name in row.model_types), *_ADDED]))
    part = (config or {}).get("text_config")
    if isinstance(part, Mapping) and is_known(part.get("model_type")):
        raise ModelError(
            f"a {model_type} holds several models, of which its language model ({part['model_type']}) can be tuned",
            "give the name of its checkpoint, from which that model alone is loaded, or a model of that type",
        )
    raise ModelError(
        f"model type {model_type!r} is not in the table of architectures",
        f"{did_you_mean(model_type, legal)}; or describe it with stratatune.add_architecture, by an "
        "EncoderArchitecture, DecoderArchitecture or EncoderDecoderArchitecture (docs/decoders.md)",
    )


def _applies(row: Architecture, config: Config) -> bool:
    return row.applies is None or str(config.get(row.applies[0], "")).startswith(row.applies[1])
