"""The plans that ``--plan auto`` considers, with the rate and the number of epochs that go with each. No torch.

What is known before any data are seen, from runs on real weights (docs/auto.md has them): all of the topmost blocks,
a quarter of them but three at least, is the plan that most often comes first for its price; LoRA of attention and FFN
from the same depth is close and sometimes ahead; training from the middle on costs twice as much and is ahead where a
task needs it; where rows are few, training from a third of the way up is ahead. On decoders LoRA of the middle third
and a little more is ahead of the top third, although it costs more. Rates fall as models grow wider: full tuning took
3e-4 at D = 384 and 1e-4 at D = 768.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stratatune.plan import Shape
from stratatune.shapes.shape import top_depth

_WIDTH = 768
"""The D at which the rates below were found."""
_RATES = {"full": (1e-4, 1.5), "lora": (5e-4, 1.0)}
"""Rates at that width, and the power of the width with which they fall."""
_BFT = 1e-3
_BATCH = 32
_STEPS, _EPOCHS = 540, (3, 10)
_STEPS_OF_FEW, _STEPS_OF_SIMPLE = 160, 100
"""Steps where rows are few, and of a simple task at the width above or a larger one. With 1,000 rows three passes score
what five do there; five score more at half the width, and on sets of 28 labels (docs/results/auto.md)."""
MOST_CLASSES = 8
"""Classes up to which a task is simple, if each text has one of them; predicting a number is simple, too."""
_ORDER = {
    "encoder": ("top", "low rank", "faster", "more", "spafit", "prompt", "everywhere", "head"),
    "decoder": ("middle", "low rank", "top", "more", "everywhere", "head"),
    "encoder-decoder": ("both",),
}
"""The order in which plans are tried on a family."""
FEW = 3000
"""Rows up to which encoders train all blocks from a third of the way up first. With 1,000 rows that scored higher on
most tasks, where probes see no need for it, and a run is short in any case (docs/results/auto.md)."""
MORE_OF_FEW = "all blocks from a third of the way up"
"""The name of the proposal that comes first where rows are few."""
PATIENCE = 2
"""Evaluations without a better score after which a run stops."""


@dataclass(frozen=True)
class Proposal:
    """A plan with its rate.

    Attributes:
        name: its name for people.
        plan: the plan as text.
        lr: the peak rate.
        prompted: whether labels are read as words under a prompt, where the objective is left open.
        tried: whether it may be in a race; one that trains next to nothing is priced alone.
    """

    name: str
    plan: str
    lr: float
    prompted: bool = False
    tried: bool = True


def deeper_than(depth: int, blocks: int, *, few: bool = False) -> int:
    """Where plans begin that train more blocks than those from ``depth`` on.

    The middle; a third of the way up if rows are ``few``, or if the middle is not below ``depth``.
    """
    middle = blocks // 2
    return middle if middle < depth and not few else max(1, min(blocks // 3, depth - 1))


def rows_are_few(shape: Shape, rows: int) -> bool:
    """Whether ``rows`` training examples are so few that a model trains more blocks, whatever probes say."""
    return _ORDER[shape.family][0] == "top" and rows <= FEW


def full_text(depth: int, *, experts: bool = False) -> str:
    """All parameters of the blocks from ``depth`` on, but for the experts where they have any."""
    return f"{depth}: full(on=attn,norms)" if experts else f"{depth}: full"


def lora_text(start: int, stop: int | None = None, rank: int = 16, on: str = "attn,ffn") -> str:
    """LoRA of attention and FFN of the blocks ``start:stop``, or of ``on``."""
    return f"{start}:{'' if stop is None else stop} lora(rank={rank}, alpha={2 * rank}, on={on})"


def proposals(
    shape: Shape, classes: int = 2, *, words: bool = False, deeper: bool = False, few: bool = False
) -> list[Proposal]:
    """The plans considered for a model, the most reliable first.

    Args:
        shape: the model.
        classes: the number of classes of the task; 1 for numbers and text.
        words: whether labels have words that a masked-LM head may name, so that BFT's adapter is considered.
        deeper: whether training more blocks comes first on an encoder, because the probes say that the topmost blocks
            alone lack information that the task needs.
        few: whether it comes first because rows are few.
    """
    blocks, full, lora = shape.blocks, rate_of("full", shape.hidden), rate_of("lora", shape.hidden)
    depth, rank = top_depth(blocks), max(16, _power(classes))
    # Experts train whole or not at all, and all of a block in fp32 are more than most machines hold.
    on, whole = ("attn", False) if shape.routed else ("attn,ffn", True)
    lower, start, stop = deeper_than(depth, blocks, few=few), max(1, blocks // 3), max(2, math.ceil(3 * blocks / 4))
    made = {
        "top": Proposal("all of the top blocks", full_text(depth), full),
        "low rank": Proposal("LoRA of the top blocks", lora_text(depth, rank=rank, on=on), lora),
        "faster": Proposal("all of the top blocks, at twice the rate", full_text(depth), 2 * full),
        # Where blocks share weights.
        "everywhere": Proposal("LoRA of every block", lora_text(0, rank=rank, on=on), lora),
        "both": Proposal("LoRA of the upper half of both stacks", f"1/2{lora_text(0, rank=rank)[1:]}", lora),
        "head": Proposal("the new output layer alone", "frozen", lora, tried=False),
    }
    if 0 < lower < depth:
        made["more"] = Proposal(MORE_OF_FEW if few else "all blocks from the middle on", full_text(lower), full)
        made["spafit"] = Proposal("SPAFIT", _spafit(lower, depth, rank), lora)
    if start < stop < blocks:
        made["middle"] = Proposal("LoRA of the middle", lora_text(start, stop, rank, on), lora)
    if words:
        made["prompt"] = Proposal("BFT's adapter under a prompt", f"bft-adapter@{depth}", _BFT, prompted=True)
    order = _ORDER[shape.family]
    first = ("more",) if (deeper or few) and order[0] == "top" else ()
    left_out = () if whole else ("top", "faster", "more")
    return [made[name] for name in dict.fromkeys((*first, *order)) if name in made and name not in left_out]


def epochs_for(rows: int, hidden: int = _WIDTH, *, few: bool = False, simple: bool = False) -> int:
    """Passes over the data, three to ten, that make some 540 steps of 32 examples.

    Where rows are ``few``, some 160 steps; 100 for a ``simple`` task on a model of a hidden size of 768 or more.
    """
    least, most = _EPOCHS
    of_few = _STEPS_OF_SIMPLE if simple and hidden >= _WIDTH else _STEPS_OF_FEW
    return min(max(round((of_few if few else _STEPS) * _BATCH / max(1, rows)), least), most)


def rate_of(method: str, hidden: int) -> float:
    """The peak rate of ``full`` or ``lora`` on a model of this width, to two digits, within the range of all models."""
    rate, power = _RATES[method]
    return scaled(min(max(rate * (_WIDTH / hidden) ** power, 1e-5), 2e-3))


def scaled(rate: float, factor: float = 1.0) -> float:
    """``factor`` times a rate, to two digits."""
    return float(f"{factor * rate:.1e}")


def _spafit(frozen: int, depth: int, rank: int) -> str:
    lora = f"lora(rank={rank}, alpha={2 * rank}, on=q,k,v,o) + bitfit(on=ffn,norm_ffn)"
    return f"0:{frozen} frozen | {frozen}:{depth} bitfit | {depth}: {lora}"


def _power(least: int) -> int:
    return 1 << max(0, math.ceil(math.log2(max(1, least))))
