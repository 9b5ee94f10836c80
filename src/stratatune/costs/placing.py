"""Memory and time of a run with its trunk in memory, streamed from the checkpoint, or its top in 4 bits. No torch.

Weights have the width in which such checkpoints are stored (decoders bf16, others fp32). Memory then holds:

    resident   the whole model; fp32 masters, gradients, AdamW's two moments of trained parameters; a step's tensors
    streamed   while the cache is filled, two blocks and a wave; while the top trains, its blocks and their surroundings
    4-bit      the same, the frozen linears of the top at 4.127 bits a weight (QLoRA's double quantisation)

each in addition to Python and torch. Seconds are the FLOPs of ``costs/flops.py`` over a measured rate of matrix
products. A streamed build takes that, or the time of reading the trunk once a wave, if that is more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stratatune.costs.cost import Cost
from stratatune.plan import Resolved
from stratatune.shapes.shape import LM_OBJECTIVES

PROCESS = 500 << 20
"""The bytes that Python with torch and transformers takes, before any weight."""
WAVE = 8192
"""Tokens of a wave, unless the data have fewer: enough to hide any disk's time."""
_PACKED = 4.127 / 8  # bytes of a weight
_STORED = {"encoder": 4, "decoder": 2, "encoder-decoder": 4}  # bytes of a weight in checkpoints of the family
_STATE = 16  # of a trained parameter: value, gradient, two moments
_HELD = 8  # bytes of a value of a wave's hidden state, with a batch's activations


@dataclass(frozen=True)
class Rates:
    """The measured rates of a machine: FLOP/s of matrix products, and bytes a second from its disk."""

    flops: float
    disk: float


@dataclass(frozen=True)
class Place:
    """The memory and time of a run with its trunk in one place.

    Attributes:
        memory_bytes: the most that is in use.
        build_seconds: the time to fill the trunk cache.
        epoch_seconds: the time of an epoch from it.
    """

    memory_bytes: int
    build_seconds: float
    epoch_seconds: float


def places(resolved: Resolved, costs: Cost, lengths: Sequence[int], head: str, rates: Rates) -> dict[str, Place]:
    """The memory and time of a run over texts of ``lengths`` [N] tokens, by the place of its trunk.

    Args:
        resolved: the plan on its model.
        costs: the costs of an epoch over the lengths.
        lengths: tokens of each example.
        head: which head the objective reads.
        rates: the machine's rates.
    """
    shape, depth = resolved.shape, resolved.frozen_depth
    width = _STORED[shape.family]
    blocks = [shape.of_block(number).block_parameters for number in range(shape.blocks)]
    state = _STATE * resolved.trainable(head)
    training = PROCESS + state + costs.epochs["cached"].saved_bytes
    epoch = costs.epochs["cached"].flops / rates.flops
    build = (costs.epochs["first"].flops - costs.epochs["cached"].flops) / rates.flops
    whole = width * resolved.total(head)
    found = {"resident": Place(int(training + whole), build + whole / rates.disk, epoch)}
    if not depth or shape.distinct or len(shape.stacks) > 1:
        return found
    around = width * (shape.final_norm + shape.head_parameters(head))
    if head in LM_OBJECTIVES and shape.decoder_tied:
        around += width * shape.head_parts["decoder"]
    top = width * sum(blocks[depth:])
    tokens = min(WAVE, sum(lengths))
    held = resolved.cached_width + shape.token_part * shape.blocks
    filling = PROCESS + state + 2 * width * max(blocks[:depth]) + _HELD * held * tokens
    reading = math.ceil(sum(lengths) / WAVE) * width * sum(blocks[:depth]) / rates.disk
    streamed = max(build, reading)
    found["streamed"] = Place(int(max(filling, training + top + around)), streamed, epoch)
    packed = top - sum((width - _PACKED) * frozen_weights(resolved, number) for number in range(depth, shape.blocks))
    found["streamed, top in 4 bits"] = Place(int(max(filling, training + packed + around)), streamed, epoch)
    return found


def frozen_weights(resolved: Resolved, number: int) -> int:
    """The number of weights of a block's linears and experts that do not train."""
    shape = resolved.shape.of_block(number)
    own = (one for one in resolved.blocks[number] if not one.adds)
    trained = {place for one in own for place, part in one.claims(shape) if part == "weight"}
    matrices = {**shape.linears, **{role: one for role, one in shape.routed.items() if role == "experts"}}
    return sum(one.weights for role, one in matrices.items() if role not in trained)
