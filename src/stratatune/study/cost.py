"""What a plan costs, by formula, before anything runs. No torch.

Counted in floating-point operations of one training step, an example of ``T`` tokens at a time. With ``M`` the weights
of a block's linears (12 D^2 for a standard block) and ``A`` the width of its attention (D):

    forward              2 M T + 4 T^2 A
    activation gradient  2 M T + 8 T^2 A      for every block above the frozen depth
    weight gradient      2 M' T               for the weights M' that train (``full``)
    added matrices       2 p T each way       for the p parameters of LoRA and adapters: forward and both gradients
    prompts              P positions more     in every block above; their generator, forward and both gradients
    prefixes             4 P T A each way     P keys and values more to attend to in a block
    IDPG                 one forward more     of all blocks over the text

Biases, norms and optimiser steps are left out, and so is DoRA's norm (R in out a role, but once a step and not for each
token); so are a task's own output layer and the embeddings (a look-up).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from stratatune.errors import PlanError, did_you_mean
from stratatune.plan import Plan, Resolved, Shape, Treatment
from stratatune.plan.shape import LM_OBJECTIVES
from stratatune.plan.treatments import Insertion, RoleTreatment

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Cost:
    """Predicted costs per token of the text; a plan's prompt tokens are costs, not tokens."""

    tokens: int
    """T, the tokens of an example."""
    flops_per_token: float
    """A training step that runs the trunk: forward through all blocks, backward through the top."""
    flops_per_token_cached: float
    """A training step from the cache: the top only. The same as above where nothing can be cached."""
    flops_per_token_full: float
    """Full tuning of the same model."""
    flops_per_token_lora: float
    """LoRA (rank 8, q and v) on all blocks of the same model."""
    cache_bytes_per_token: int
    """The trunk cache; 0 when nothing is cached."""

    @property
    def speedup_vs_full(self) -> float:
        return self.flops_per_token_full / self.flops_per_token

    @property
    def speedup_vs_full_cached(self) -> float:
        return self.flops_per_token_full / self.flops_per_token_cached

    @property
    def speedup_vs_lora(self) -> float:
        return self.flops_per_token_lora / self.flops_per_token

    @property
    def speedup_vs_lora_cached(self) -> float:
        return self.flops_per_token_lora / self.flops_per_token_cached

    def to_data(self) -> dict[str, float]:
        """Every number by its name, for ``--json``."""
        ratios = ("speedup_vs_full", "speedup_vs_full_cached", "speedup_vs_lora", "speedup_vs_lora_cached")
        return {**asdict(self), **{name: getattr(self, name) for name in ratios}}


def cost(
    resolved: Resolved, *, tokens: int = 64, objective: str | None = None, dtype: str = "bf16", read_last: bool = False
) -> Cost:
    """The costs of a plan on its model.

    Args:
        resolved: the plan on its model.
        tokens: T, the tokens of an example.
        objective: whose head runs (at one position of an example); the plan's own when None.
        dtype: of the cache: fp32, bf16 or fp16.
        read_last: whether the last block computes queries, output and FFN only at the position that the head reads, as
            our own loop does. Without it, the count is that of the papers: 2.0x and 2.4x over full tuning at depths 12
            and 18 of 24 (BFT table 1).

    Raises:
        PlanError: ``tokens`` is below 1, or ``dtype`` is none of the three.
    """
    if tokens < 1:
        raise PlanError(f"tokens={tokens} is not a length", "legal: 1 or more")
    if dtype not in BYTES:
        raise PlanError(f"dtype {dtype!r} is not known", did_you_mean(dtype, BYTES))
    objective = objective or resolved.plan.objective
    forward, top = _steps(resolved, tokens, objective, read_last)
    full, lora = (_whole(name, resolved.shape, tokens, objective) for name in ("full", "lora"))
    return Cost(
        tokens=tokens,
        flops_per_token=(forward + top) / tokens,
        flops_per_token_cached=top / tokens,
        flops_per_token_full=full / tokens,
        flops_per_token_lora=lora / tokens,
        cache_bytes_per_token=_cache_bytes(resolved, tokens, BYTES[dtype]),
    )


def layer_units(resolved: Resolved) -> float:
    """Passes through a block in one step, the coarse count of the papers: 72 for full tuning of 24 blocks.

    One for each block's forward, one for each activation gradient, and for each block's weight gradient the share of
    its weights that train.
    """
    shape, trained = resolved.shape, 0.0
    for number, treatments in enumerate(resolved.blocks):
        at = shape.at(number)
        weights = sum(_trained_weights(at, one, dict.fromkeys(at.linears, 1)) for one in treatments)
        trained += weights / sum(linear.weights for linear in at.linears.values())
    return shape.blocks + resolved.backprop_blocks + trained


def _whole(preset: str, shape: Shape, tokens: int, objective: str) -> float:
    """A step of a preset on the same model, nothing cached, every position computed."""
    return sum(_steps(Plan.parse(preset).resolve(shape), tokens, objective, read_last=False))


def _steps(resolved: Resolved, tokens: int, objective: str, read_last: bool) -> tuple[float, float]:
    """FLOPs of one example: (forward of the trunk, forward and backward of the top)."""
    shape = resolved.shape
    trunk, top, length = 0.0, _head(resolved, objective), tokens
    for number, treatments in enumerate(resolved.blocks):
        for one in (one for depth, one in resolved.insertions if depth == number):
            top += _inserted(one, shape, length) + one.rereads * shape.blocks * _block(shape, (), tokens, tokens)[0]
            length += one.prompt
        queries = 1 if read_last and number == shape.blocks - 1 else length
        forward, backward = _block(shape.at(number), treatments, length, queries)
        if number < resolved.frozen_depth:
            trunk += forward
        else:
            top += forward + backward
    last = (one for depth, one in resolved.insertions if depth == shape.blocks)
    return trunk, top + sum(_inserted(one, shape, 1) for one in last)  # there only the position that is read counts


def _inserted(one: Insertion, shape: Shape, length: int) -> float:
    """Forward and both gradients of an insertion's matrices."""
    return 3 * 2.0 * one.multiplications_at(shape, length)


def _block(shape: Shape, treatments: tuple[Treatment, ...], length: int, queries: int) -> tuple[float, float]:
    """FLOPs of one block: (forward, backward); keys and values at every position, the rest at ``queries``."""
    positions = {role: length if role in ("k", "v") else queries for role in shape.linears}
    matmul = sum(2.0 * linear.weights * positions[role] for role, linear in shape.linears.items())
    attention = 4.0 * length * queries * shape.linears["q"].outputs
    added = sum(2.0 * one.multiplications(shape, positions) for one in treatments)
    trained = sum(2.0 * _trained_weights(shape, one, positions) for one in treatments)
    return matmul + attention + added, matmul + 2 * attention + 2 * added + trained


def _trained_weights(shape: Shape, one: Treatment, positions: dict[str, int]) -> int:
    """Multiplications that the gradient of the model's own trained matrices takes."""
    if one.adds or not isinstance(one, RoleTreatment) or "weight" not in one.touches:
        return 0
    return sum(shape.linears[role].weights * positions[role] for role in one.roles_in(shape) if role in shape.linears)


def _head(resolved: Resolved, objective: str) -> float:
    """The pretrained head at one position: forward, activation gradient, and the weight gradients of what trains."""
    shape, head = resolved.shape, resolved.plan.head
    if objective not in LM_OBJECTIVES:
        matrix, trained = shape.pooler + shape.classifier_dense, shape.pooler * head.pooler + shape.classifier_dense
        return 2.0 * (2 * matrix + trained)
    matrices = {part: shape.head_parts[part] for part in ("dense", "decoder")}
    return 2.0 * (2 * sum(matrices.values()) + sum(size for part, size in matrices.items() if part in head.mlm))


def _cache_bytes(resolved: Resolved, tokens: int, width: int) -> int:
    """Bytes of cache for each token; of an example only the position that is read when all blocks are frozen."""
    if resolved.frozen_depth == 0:
        return 0
    row = resolved.shape.hidden * width
    return -(-row // tokens) if resolved.frozen_depth == resolved.shape.blocks else row
