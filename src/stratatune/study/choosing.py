"""From probes to a plan: at which depth, and why. No torch.

The rule. A frozen model brings what it knows of a text to the position that the objective reads block by block; r is
the depth at which that is done, the first whose probe at this position is within one standard error of the best
depth's. Insert one block below, at r - 1: what is written there at every token is still gathered by block r - 1 and
read by those above. Further up the gathering is over and only a readout is left to tune (BFT's turning point, figure
4); further down more blocks run and train each step for nothing that a probe can see. One standard error is Breiman's
rule: what cannot be told from the best counts as good as it. Never below 1 nor above L - 1.

SPAFIT's LoRA starts at the same depth. Below it, blocks are frozen up to f, the deepest depth at which the mean over
the tokens tells no more than the embeddings do (within one standard error), and BitFit trains from f to there.

Where no depth tells the labels better than the control by two standard errors, the probes say nothing, and the papers'
depths stand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stratatune.study.probing import Probe

_LORA_SHARE = 16
"""SPAFIT's rank 64 is a sixteenth of its models' D = 1024."""
_BOTTLENECK = 16
"""BFT's adapter."""
_ADAPTER = "adapter(depth={0}, bottleneck={1})"


@dataclass(frozen=True)
class Found:
    """What the probes of one reading say.

    Attributes:
        told: whether any depth tells the labels better than the control does.
        depth: where to insert, or where LoRA starts.
        frozen: up to where blocks add nothing to the embeddings; at most ``depth``.
        gathered: the probe of depth r, where the position read first tells as much as anywhere.
        best: the best probe of that position.
    """

    told: bool
    depth: int
    frozen: int
    gathered: Probe
    best: Probe


def find(probes: Sequence[Probe]) -> Found:
    """The rule of this module over the probes of every depth 0..L."""
    read = [one for one in probes if one.reading == "read"]
    mean = [one for one in probes if one.reading == "mean"] or read
    best = max(read, key=lambda one: one.score)
    gathered = next(one for one in read if one.score >= best.score - best.error)
    blocks = len(read) - 1
    told = best.score - best.control > 2 * math.hypot(best.error, best.control_error)
    depth = min(max(1, gathered.depth - 1), max(1, blocks - 1)) if told else max(1, round(0.75 * blocks))
    flat = [one.depth for one in mean if one.score <= mean[0].score + mean[0].error]
    frozen = _run(flat) if told else round(blocks / 4)
    return Found(told, depth, min(max(1, frozen), depth), gathered, best)


def _run(depths: Sequence[int]) -> int:
    """The last of the depths that follow one another from 0."""
    return next((n - 1 for n, depth in enumerate(depths) if depth != n), len(depths) - 1)


def bottleneck(classes: int) -> int:
    """Of the adapter: BFT's 16, or as many directions as there are classes; a power of two."""
    return max(_BOTTLENECK, _power(classes))


def rank(hidden: int, classes: int) -> int:
    """Of LoRA: SPAFIT's share of the hidden size, or as many directions as there are classes; a power of two."""
    return max(4, _power(hidden // _LORA_SHARE), _power(classes))


def _power(least: int) -> int:
    return 1 << max(0, math.ceil(math.log2(max(1, least))))


def texts(family: str, found: Found, hidden: int, blocks: int, classes: int) -> dict[int, str]:
    """The candidate plans of a family by their depth: the insertion's, or LoRA's start.

    SPAFIT's frozen part moves with it, so that BitFit keeps its share.
    """
    if family == "bft":
        width = bottleneck(classes)
        named = "bft-adapter@{0}" if width == _BOTTLENECK else _ADAPTER + " | head(mlm=dense,norm,bias)"
        return {depth: named.format(depth, width) for depth in range(1, blocks + 1)}
    gap, size = found.depth - found.frozen, rank(hidden, classes)
    lora = f"lora(rank={size}, alpha={2 * size}, on=q,k,v,o) + bitfit(on=ffn,norm_ffn)"
    return {
        start: " | ".join(
            [f"0:{start - gap} frozen", *([f"{start - gap}:{start} bitfit"] if gap else []), f"{start}: {lora}"]
        )
        for start in range(gap + 1, blocks)
    }
