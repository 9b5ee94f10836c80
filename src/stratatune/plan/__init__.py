"""What to do at which depth, as pure data: no torch, no transformers, no weights."""

from stratatune.plan.architectures import Architecture, Fields
from stratatune.plan.builtin import BUILTIN
from stratatune.plan.layers import Depth
from stratatune.plan.presets import PRESETS, Preset, list_presets, preset_names
from stratatune.plan.resolved import Resolved, Run
from stratatune.plan.schema import Plan, Stratum
from stratatune.plan.shape import Linear, Norm, Shape
from stratatune.plan.sizes import shape_of
from stratatune.plan.table import ARCHITECTURES, architecture_of
from stratatune.plan.treatments import (
    BLOCK_TREATMENTS,
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
    Parallel,
    Prefix,
    Prompt,
    Treatment,
)

__all__ = [
    "ARCHITECTURES",
    "BLOCK_TREATMENTS",
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
    "Treatment",
    "architecture_of",
    "list_presets",
    "preset_names",
    "shape_of",
]
