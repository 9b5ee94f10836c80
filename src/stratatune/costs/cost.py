"""The cost of a plan, before anything runs.

:func:`cost` gives the work of a training step for each token. Given the lengths of a data set it also gives the work of
an epoch in batches of them, padding included, next to four common baselines: A, B, C and F. Operations are counted by
the formulas of ``costs/flops.py``, without torch; the bytes that a step keeps for its backward pass are measured by
``model/kept.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from stratatune.costs.flops import example, reads_one
from stratatune.errors import DataError, PlanError, did_you_mean
from stratatune.plan import MethodConfig, Plan, Resolved, Shape, shape_of
from stratatune.plan.methods import RoleMethod
from stratatune.shapes.shape import top_depth
from stratatune.units import DTYPE_BYTES

if TYPE_CHECKING:
    import numpy as np

    from stratatune.data.encoded import Targets

Places = Literal["one", "read", "padded"]

ARMS = {
    "A": "stock LoRA on all blocks, random batches, dynamic padding",
    "B": "A with batches of similar length",
    "C": "full tuning of the topmost blocks (a quarter, at least three), batches of similar length",
    "F": "full tuning, random batches, dynamic padding",
}
"""Common ways to fine-tune, with which a plan is compared."""


@dataclass(frozen=True)
class Epoch:
    """An epoch of one way to train.

    Attributes:
        steps: batches.
        flops: the work of all of them.
        saved_bytes: kept between forward and backward of a step, the mean over the steps; 0 where not measured.
        padding: tokens computed over tokens of text.
    """

    steps: int
    flops: float
    saved_bytes: float
    padding: float


@dataclass(frozen=True)
class Cost:
    """Predicted costs per token of the text; a plan's prompt tokens are costs, not tokens."""

    tokens: int
    """T, the tokens of an example."""
    flops_per_token: float
    """A training step that runs the trunk: forward through all blocks, backward through the top."""
    flops_per_token_cached: float
    """A training step from the cache: the top only. Equal to ``flops_per_token`` where nothing can be cached."""
    flops_per_token_full: float
    """Full tuning of the same model."""
    flops_per_token_lora: float
    """LoRA (rank 8, q and v) on all blocks of the same model."""
    cache_bytes_per_token: int
    """The trunk cache; 0 when nothing is cached."""
    epochs: Mapping[str, Epoch] = field(default_factory=dict)
    """Epochs of ``A``, ``B``, ``C``, ``F`` and the plan (``first``: trunk and top; ``cached``), if lengths were given.

    ``trunk`` is one pass of the frozen model.
    """
    cache_bytes: int = 0
    """The whole trunk cache, where lengths were given."""

    @property
    def speedup_vs_full(self) -> float:
        return self.flops_per_token_full / self.flops_per_token

    @property
    def speedup_vs_full_cached(self) -> float:
        return _over(self.flops_per_token_full, self.flops_per_token_cached)

    @property
    def speedup_vs_lora(self) -> float:
        return self.flops_per_token_lora / self.flops_per_token

    @property
    def speedup_vs_lora_cached(self) -> float:
        return _over(self.flops_per_token_lora, self.flops_per_token_cached)

    def ratio(self, arm: str, epochs: int = 0) -> float:
        """An arm's work over the plan's: for an epoch from the cache, or ``epochs`` of which the first builds it.

        Infinite where the plan leaves nothing to do.
        """
        own = self.epochs["cached"].flops
        if epochs:
            own = (self.epochs["first"].flops + (epochs - 1) * own) / epochs
        return _over(self.epochs[arm].flops, own)

    def to_data(self) -> dict[str, Any]:
        """Every number by its name, for ``--json``; None in place of infinity, which JSON does not have."""
        names = ("speedup_vs_full", "speedup_vs_full_cached", "speedup_vs_lora", "speedup_vs_lora_cached")
        ratios = {name: getattr(self, name) for name in names}
        fields = asdict(self)
        if self.epochs:
            ratios |= {f"cached_vs_{arm}": self.ratio(arm) for arm in ARMS}
            ratios |= {f"ten_epochs_vs_{arm}": self.ratio(arm, 10) for arm in ARMS}
        else:
            fields = {name: value for name, value in fields.items() if name not in ("epochs", "cache_bytes")}
        return {**fields, **{name: value if math.isfinite(value) else None for name, value in ratios.items()}}


def cost(
    plan: Plan | Resolved | str,
    shape: Shape | str | None = None,
    lengths: Sequence[int] | np.ndarray | None = None,
    *,
    tokens: int = 64,
    objective: str | None = None,
    dtype: str = "bf16",
    read_last: bool = False,
    batch_size: int = 32,
    labels: int = 2,
    memory: bool = True,
    groups: Targets | None = None,
    places: np.ndarray | None = None,
    positions: str | None = None,
    device: str = "auto",
) -> Cost:
    """The costs of a plan on a model.

    Args:
        plan: the plan, or a plan on its model already.
        shape: the model: a shape, or an argument of :func:`stratatune.shape_of`.
        lengths: [N] tokens of every example of a data set: then :attr:`Cost.epochs` has the epochs over it. These
            count our loop as it is: batches cut by length, the last block at one position. A, B, C and F learn the
            same by transformers' own model, whose head of tags or of a decoder runs at every token; a classifier where
            ``objective`` reads label words of an encoder.
        tokens: T, the tokens of an example, for the costs of one token.
        objective: whose head runs (at one position of an example); the plan's own when None.
        dtype: the cache's: fp32, bf16, fp16 or int8; the computation is in fp32 with fp32, in bf16 with the others.
        read_last: whether the last block computes queries, output and FFN only at the position that the head reads, as
            our own loop does. Without it, the count is that of the papers: 2.0x and 2.4x over full tuning at depths 12
            and 18 of 24 (BFT table 1).
        batch_size: examples of a batch of the epochs.
        labels: outputs of a classifier in the epochs.
        memory: whether to measure the bytes that the steps keep (``model/kept.py``), which needs torch and takes
            some seconds. Our head is then taken to read every token, where it reads more than one.
        groups: the numbers of each example's texts, where examples have several; ``lengths`` are then those of the
            texts, and ``batch_size`` counts examples.
        places: [N] at how many tokens of each text our head runs, where it reads more than one; None: at all of them.
        positions: which positions the settled objective reads, ``one``, ``few`` or ``all`` (``Objective.positions``);
            None: those of its kind.
        device: where the steps are computed, as in a run's settings: a GPU's attention keeps no scores.

    Raises:
        PlanError: ``tokens`` is below 1, ``dtype`` is none of the four, ``objective`` is none, or a plan comes without
            a model.
        DataError: ``lengths`` is empty or holds a length below 1.
    """
    if tokens < 1:
        raise PlanError(f"tokens={tokens} is not a length", "legal: 1 or more")
    if dtype not in DTYPE_BYTES:
        raise PlanError(f"dtype {dtype!r} is not known", did_you_mean(dtype, DTYPE_BYTES))
    resolved = _resolved(plan, shape)
    objective = objective or resolved.plan.objective
    from stratatune.objectives.registry import OBJECTIVES  # brings in numpy, which drawing a plan does not need

    if objective not in OBJECTIVES:
        raise PlanError(f"objective {objective!r} is not known", did_you_mean(objective, OBJECTIVES))
    head = OBJECTIVES[objective].head
    reads = positions or OBJECTIVES[objective].reads
    reads_all = reads == "all" or resolved.shape.reads_all(head)
    trunk, top = example(resolved, tokens, head, read_last=read_last)
    full, lora = (_whole(name, resolved.whole, tokens, head) for name in ("full", "lora"))
    found = Cost(
        tokens=tokens,
        flops_per_token=(trunk.flops + top.flops) / tokens,
        flops_per_token_cached=top.flops / tokens,
        flops_per_token_full=full / tokens,
        flops_per_token_lora=lora / tokens,
        cache_bytes_per_token=_cache_bytes(resolved, tokens, DTYPE_BYTES[dtype], reads_all=reads_all),
    )
    if lengths is None:
        return found
    checked = _checked(lengths)
    kept = len(checked) if _keeps_one(resolved, reads_all=reads_all) else checked.sum()
    whole = int(kept) * resolved.cached_width * DTYPE_BYTES[dtype] if resolved.frozen_depth else 0
    data = _Data(checked, groups, places)
    low = dtype != "fp32"
    epochs = _epochs(resolved, data, objective, batch_size, labels, reads, low=low, memory=memory, device=device)
    return replace(found, epochs=epochs, cache_bytes=whole)


def _over(theirs: float, own: float) -> float:
    return theirs / own if own else math.inf


def _resolved(plan: Plan | Resolved | str, shape: Shape | str | None) -> Resolved:
    if isinstance(plan, Resolved):
        return plan
    if shape is None:
        raise PlanError(f"{plan}: what it costs depends on the model", 'name one: cost(plan, "roberta-large")')
    plan = Plan.parse(plan) if isinstance(plan, str) else plan
    return plan.resolve(shape_of(shape) if isinstance(shape, str) else shape)


def _checked(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    import numpy as np

    found = np.asarray(lengths, dtype=np.int64)
    if found.ndim != 1 or not len(found) or found.min() < 1:
        raise DataError("lengths: one number of tokens an example, 1 or more each", "give the lengths of a data set")
    return found


def random_batches(count: int, size: int, epoch: int) -> list[np.ndarray]:
    """Batches as a plain loader draws them: [B] example numbers each, in random order."""
    import numpy as np

    order = np.random.default_rng(epoch).permutation(count)
    return [order[start : start + size] for start in range(0, count, size)]


@dataclass(frozen=True)
class _Data:
    """The texts of a data set, as :func:`cost` is given them."""

    lengths: np.ndarray
    groups: Targets | None
    places: np.ndarray | None

    def batches(self, size: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The numbers of the texts of each batch: cut by length, and in random order."""
        import numpy as np

        from stratatune.data.batching import plan_batches
        from stratatune.data.encoded import padded_lengths

        examples = padded_lengths(self.lengths, self.groups)
        plans = plan_batches(examples, batch_size=size, seed=0, epoch=0), random_batches(len(examples), size, 0)
        if (groups := self.groups) is None:
            return plans
        cut, drawn = ([np.unique(groups.subset(index).values) for index in plan] for plan in plans)
        return cut, drawn

    def read(self, batch: np.ndarray) -> float:
        """The number of tokens at which our head runs, where it reads more than one of a text."""
        return float((self.lengths if self.places is None else self.places)[batch].sum())


def _epochs(
    resolved: Resolved,
    data: _Data,
    objective: str,
    size: int,
    labels: int,
    reads: str,
    *,
    low: bool,
    memory: bool,
    device: str,
) -> dict[str, Epoch]:
    from stratatune.objectives.registry import OBJECTIVES

    shape = resolved.shape
    cut, drawn = data.batches(size)
    lora, full = (Plan.parse(name).resolve(resolved.whole) for name in ("lora", "full"))
    topmost, frozen = (Plan.parse(text).resolve(resolved.whole) for text in (top_text(resolved.whole), "frozen"))
    own = OBJECTIVES[objective]
    today = OBJECTIVES[own.today or objective]

    def counted(plan: Resolved, batches: list[np.ndarray], parts: slice, theirs: bool) -> Epoch:
        head = (today if theirs else own).head
        if theirs:  # transformers' heads of decoders and of tags run at every token, padding included
            at: Places = "padded" if shape.read_at_end or today.reads == "all" else "one"
        else:
            at = "read" if reads == "all" else "one"
        read_last = not theirs and reads_one(shape, objective, reads)
        found = _epoch(plan, data, batches, parts, head, labels, at, read_last)
        if not memory or parts == below:
            return found
        one, undivided = not theirs and reads != "all", theirs or own.whole_batches
        return replace(
            found,
            saved_bytes=_kept(plan, data.lengths, batches, head, labels, one, theirs, undivided, low, device),
        )

    whole, below, top = slice(0, 2), slice(0, 1), slice(1, 2)
    return {
        "A": counted(lora, drawn, whole, True),
        "B": counted(lora, cut, whole, True),
        "C": counted(topmost, cut, whole, True),
        "F": counted(full, drawn, whole, True),
        "trunk": counted(frozen, cut, below, True),
        "first": counted(resolved, cut, whole, False),
        "cached": counted(resolved, cut, top, False),
    }


def _epoch(
    plan: Resolved,
    data: _Data,
    batches: list[np.ndarray],
    parts: slice,
    head: str,
    labels: int,
    at: Places,
    read_last: bool,
) -> Epoch:
    """The work of an epoch: each batch counts as its number of texts, all as long as the longest.

    ``at``: where the head runs: at one token of each text, at those that are read, or at all, padding included.
    """
    from stratatune.data.batching import padding_ratio

    sizes: dict[int, tuple[int, float]] = {}
    for batch in batches:
        longest = int(data.lengths[batch].max())
        texts, places = sizes.get(longest, (0, 0.0))
        more = {"one": float(len(batch)), "read": data.read(batch), "padded": float(longest * len(batch))}[at]
        sizes[longest] = texts + len(batch), places + more
    flops = 0.0
    for tokens, (texts, places) in sizes.items():
        one = example(plan, tokens, head, labels=labels, read_last=read_last, places=places / texts)
        flops += texts * sum(part.flops for part in one[parts])
    return Epoch(len(batches), flops, 0.0, padding_ratio(batches, data.lengths))


def _kept(
    plan: Resolved,
    lengths: np.ndarray,
    batches: list[np.ndarray],
    head: str,
    labels: int,
    one: bool,
    theirs: bool,
    undivided: bool,
    low: bool,
    device: str,
) -> float:
    """The mean over the batches of the bytes that a step keeps; a smaller last batch counts by its share.

    Of a batch that is computed in parts, one part is kept at a time; the peers compute theirs ``undivided``.
    """
    from stratatune.data.batching import parts_of
    from stratatune.model.device import device_kind  # brings in torch
    from stratatune.model.kept import Step, kept_bytes

    longest = [int(lengths[batch].max()) for batch in batches]
    parts = [1 if undivided else parts_of(len(batch), at) for batch, at in zip(batches, longest, strict=True)]
    rows = [-(-len(batch) // count) for batch, count in zip(batches, parts, strict=True)]
    size = max(rows)
    step = Step(head, size, labels, one, theirs, low, fused=device_kind(device) == "cuda")
    found = kept_bytes(plan, step, longest)
    return sum(found[at] * count / size for at, count in zip(longest, rows, strict=True)) / len(batches)


def top_text(shape: Shape) -> str:
    """The plan of arm C for a model: all of its topmost blocks, or everything where blocks share weights."""
    whole = shape.distinct or len(shape.stacks) > 1
    return "full" if whole else f"{top_depth(shape.blocks)}: full"


def layer_units(resolved: Resolved) -> float:
    """Passes through a block in one step, the coarse count of the papers: 72 for full tuning of 24 blocks.

    One for each block's forward, one for each activation gradient, and for each block's weight gradient the share of
    its weights that train.
    """
    shape, trained = resolved.shape, 0.0
    for number, methods in enumerate(resolved.blocks):
        at = shape.of_block(number)
        weights = sum(_trained_weights(at, one) for one in methods)
        trained += weights / sum(one.weights for one in (*at.linears.values(), *at.routed.values()))
    return shape.blocks + resolved.backprop_blocks + trained


def _whole(preset: str, shape: Shape, tokens: int, head: str) -> float:
    """The work of a step of a preset on the same model, nothing cached, every position computed."""
    return sum(part.flops for part in example(Plan.parse(preset).resolve(shape), tokens, head, read_last=False))


def _trained_weights(shape: Shape, one: MethodConfig) -> int:
    """The model's own weights, in the matrices of a block, that a method trains."""
    if one.adds or not isinstance(one, RoleMethod) or "weight" not in one.touches:
        return 0
    matrices = {**shape.linears, **shape.routed}
    return sum(matrices[role].weights for role in one.roles_in(shape) if role in matrices)


def _cache_bytes(resolved: Resolved, tokens: int, width: int, *, reads_all: bool) -> int:
    """Bytes of cache for each token."""
    if resolved.frozen_depth == 0:
        return 0
    row = resolved.cached_width * width
    return -(-row // tokens) if _keeps_one(resolved, reads_all=reads_all) else row


def _keeps_one(resolved: Resolved, *, reads_all: bool) -> bool:
    """Whether the cache keeps one position of a text: all blocks are frozen, and the head reads one."""
    shape = resolved.shape
    return not reads_all and resolved.cached_depth == shape.blocks
