"""Exported models give numbers in the units of the data, where their output layer can.

An output may have been learnt as how many deviations a number lies above the mean of the training data; the objective
saves that under ``units``. The number itself is an affine map of that, so it is one of the linear output
layer: with ``y = mean + deviation z`` and ``z = w h + b``, the row ``w`` becomes ``deviation w`` and its bias
``mean + deviation b``.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from stratatune.model.attached import Attached

KEY = "units"


def fold_units(attached: Attached) -> dict[str, dict[str, float]]:
    """Fold mean and deviation of each such output into the output layer, in place, and note it in ``attached.spec``.

    A layer without a bias cannot hold a mean (those of decoders have none), and one that leaves in half precision would
    round it: then everything stays as it is.

    Returns:
        The outputs that stay in deviations, by their names: the ``mean`` and ``deviation`` to take them with.
    """
    import torch

    units = attached.spec.get(KEY) or ()
    if not units:
        return {}
    layer = output_layer(attached)
    if layer is None or layer.bias is None or attached.origin.checkpoint_dtype() is not None:
        return {one["name"]: {"mean": one["mean"], "deviation": one["deviation"]} for one in units}
    spec = copy.deepcopy(attached.spec)
    with torch.no_grad():
        for one in units:
            layer.weight[one["output"]] *= one["deviation"]
            layer.bias[one["output"]] *= one["deviation"]
            layer.bias[one["output"]] += one["mean"]
            learnt = spec if one["head"] is None else spec["heads"][one["head"]]
            learnt |= {"mean": 0.0, "deviation": 1.0}
    attached.spec = {**spec, KEY: []}
    return {}


def output_layer(attached: Attached) -> nn.Linear | None:
    """The linear that gives the logits; None where the model has no such layer of its own."""
    layer = attached.backbone.output_linear()
    outputs = attached.backbone.model.config.num_labels
    return layer if layer is not None and layer.out_features == outputs else None
