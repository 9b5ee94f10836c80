"""Weights of examples, if the training data have some: a loss is then their weighted mean."""

from __future__ import annotations

import numpy as np

from stratatune.data.encoded import Encoded
from stratatune.data.readers import Table

WEIGHT = "weight"
"""The name of the weights in ``Table.further`` and among the targets, one for each text."""


def with_weights(encoded: Encoded, table: Table) -> Encoded:
    """``encoded`` with the weight of each of its texts, if the table has weights."""
    weights = table.further.get(WEIGHT)
    return encoded if weights is None else encoded.with_targets(np.asarray(weights, np.float32), name=WEIGHT)
