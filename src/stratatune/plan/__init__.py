"""Plans: which methods apply at which depth, as pure data. No torch, no transformers, no weights."""

from stratatune.plan.layers import Depth
from stratatune.plan.methods import (
    BLOCK_METHODS,
    GROUPS,
    INSERTIONS,
    ROLES,
    Adapter,
    BitFit,
    DeltaBias,
    Dora,
    Frozen,
    Full,
    Head,
    Houlsby,
    Ia3,
    Idpg,
    Insertion,
    LatePrompt,
    Lora,
    MethodConfig,
    Parallel,
    Prefix,
    Prompt,
)
from stratatune.plan.presets import PRESETS, Preset, list_presets, preset_names
from stratatune.plan.resolved import Resolved, Run
from stratatune.plan.schema import Plan, Stratum
from stratatune.shapes.architectures import Architecture, Fields
from stratatune.shapes.builtin import BUILTIN
from stratatune.shapes.shape import Linear, Norm, Shape
from stratatune.shapes.sizes import shape_of
from stratatune.shapes.table import ARCHITECTURES, architecture_of

__all__ = [
    "ARCHITECTURES",
    "BLOCK_METHODS",
    "BUILTIN",
    "GROUPS",
    "INSERTIONS",
    "PRESETS",
    "ROLES",
    "Adapter",
    "Architecture",
    "BitFit",
    "DeltaBias",
    "Depth",
    "Dora",
    "Fields",
    "Frozen",
    "Full",
    "Head",
    "Houlsby",
    "Ia3",
    "Idpg",
    "Insertion",
    "LatePrompt",
    "Linear",
    "Lora",
    "Norm",
    "Parallel",
    "Plan",
    "Prefix",
    "Preset",
    "Prompt",
    "Resolved",
    "Run",
    "Shape",
    "Stratum",
    "MethodConfig",
    "architecture_of",
    "list_presets",
    "preset_names",
    "shape_of",
]
