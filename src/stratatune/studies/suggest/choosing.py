"""Choose a plan from probes: at which depth, and why. No torch.

The rule. A frozen model gathers its information about a text, block by block, at the position that is read; r is the
depth at which that is done, the first whose probe at this position is within one standard error of the best depth's.
Insert one block below, at r - 1: the changes there at every token are still gathered by block r - 1 and read by those
above. Further up the gathering is over and only a readout is left to tune (BFT's turning point, figure 4); further down
more blocks run and train each step without a gain that a probe can see. One standard error is Breiman's rule: a depth
that cannot be distinguished from the best counts as equally good. Never below 1 nor above L - 1.

Plans that train whole blocks (``full``, ``lora``) train the topmost quarter of them, three at least, or from the middle
on where a depth below predicts better than the one where these begin by 1.5 standard errors of the difference, taken
fold by fold: then information for the task gets lost on the way up. Where an encoder gets few rows, they train from a
third of the way up, which scores higher (``candidates.py``). ``--plan auto`` (``auto.py``) has the same rule and
the same plans.

SPAFIT's LoRA starts at the same depth. Below it, blocks are frozen up to f, the deepest depth at which the mean over
the tokens predicts no better than the embeddings do (within one standard error), and BitFit trains from f to there.

Where the best depth predicts the labels no better than the best depth of one of 19 random orders of them, the probes
say nothing, and the papers' depths are used: a permutation test, at the level of one in 20.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from stratatune.studies.suggest.candidates import deeper_than, full_text, lora_text, top_depth
from stratatune.studies.suggest.probing import Probe

_LORA_SHARE = 16
"""LoRA's rank as a share of D: SPAFIT's rank 64 is a sixteenth of its models' D = 1024."""
_BOTTLENECK = 16
"""The bottleneck of BFT's adapter."""
_PROMPT_SHARE = 8
_CLEAR = 1.5
"""Standard errors by which one depth must lead another: the value that separated tasks which need more blocks from the
others (docs/results/auto.md)."""
WHOLE = ("full", "lora")
"""Families that train whole blocks."""
_FEWEST_TO_CUT = 3
FEWEST_BLOCKS = {"spafit": 2}
"""The blocks that a family needs; SPAFIT freezes one at least and trains those above. Others take any model."""
INSERTIONS = ("adapter", "late_prompt")
"""The insertions of BFT; the adapter is the better and cheaper one."""


@dataclass(frozen=True)
class Found:
    """The result of the probes of one reading.

    Attributes:
        informative: whether the best depth predicts the labels better than any predicts them in a random order.
        depth: where to insert, or where LoRA starts.
        frozen: up to where blocks add nothing to the embeddings; at most ``depth``.
        gathered: the probe of depth r, the first where the position that is read predicts as well as anywhere.
        best: the best probe of that position.
        few: whether more blocks train because rows are few, and not because of the probes.
    """

    informative: bool
    depth: int
    frozen: int
    gathered: Probe
    best: Probe
    few: bool = False


def adds_below(probes: Sequence[Probe], depth: int) -> bool:
    """Whether the best probe below ``depth`` is better than the one there by more than chance.

    It must lead by 1.5 standard errors of the difference, taken fold by fold: every depth is scored on the same texts,
    and some folds are harder than others for all depths alike.
    """
    at = next((one for one in probes if one.depth == depth), None)
    below = [one for one in probes if one.depth < depth]
    if at is None or not below:
        return False
    best = max(below, key=lambda one: one.score)
    gains = [lower - upper for lower, upper in zip(best.folds, at.folds, strict=True)]
    return statistics.mean(gains) > _CLEAR * statistics.stdev(gains) / math.sqrt(len(gains))


def find(probes: Sequence[Probe], family: str = "bft", *, few: bool = False) -> Found:
    """Apply the rule of this module to the probes of every depth 0..L.

    Args:
        probes: of the position that is read, and of the mean over the tokens.
        family: the family of plans.
        few: whether an encoder gets few rows.
    """
    read = [one for one in probes if one.reading == "read"]
    mean = [one for one in probes if one.reading == "mean"] or read
    best = max(read, key=lambda one: one.score)
    gathered = next(one for one in read if one.score >= best.score - best.error)
    blocks = len(read) - 1
    informative = best.score > max(max(one.controls) for one in read)
    depth = min(max(1, gathered.depth - 1 if informative else round(0.75 * blocks)), max(1, blocks - 1))
    flat = [one.depth for one in mean if one.score <= mean[0].score + mean[0].error]
    frozen = _run(flat) if informative else round(blocks / 4)
    if family in WHOLE:
        top = top_depth(blocks)
        seen = informative and adds_below(mean, top)
        depth = min(deeper_than(top, blocks, few=few), top) if seen or few else top
        return Found(informative, depth, depth, gathered, best, few=few and not seen and depth < top)
    return Found(informative, depth, min(max(1, frozen), depth), gathered, best)


def _run(depths: Sequence[int]) -> int:
    """The last of the consecutive depths that begin at 0."""
    return next((n - 1 for n, depth in enumerate(depths) if depth != n), len(depths) - 1)


def width_of(family: str, hidden: int, classes: int) -> int:
    """The adapter's bottleneck, or LoRA's rank: the papers', or the number of classes if that is larger.

    BFT's 16; SPAFIT's share of the hidden size, 4 at least. A power of two.
    """
    own = _BOTTLENECK if family != "spafit" else max(4, _power(hidden // _LORA_SHARE))
    return max(own, _power(classes))


def _power(least: int) -> int:
    return 1 << max(0, math.ceil(math.log2(max(1, least))))


def plan_text(
    family: str, depth: int, width: int, *, gap: int = 0, insertion: str = "adapter", experts: bool = False
) -> str:
    """A plan of a family.

    Args:
        family: ``full``, ``lora``, ``bft`` or ``spafit``.
        depth: the depth of the insertion, or that from which on blocks train.
        width: the adapter's bottleneck (an eighth of a late prompt's, as in BFT's 16 and 128), or LoRA's rank.
        gap: blocks with BitFit below LoRA.
        insertion: one of :data:`INSERTIONS`.
        experts: whether blocks hold experts, which these plans leave frozen.
    """
    if family == "bft":
        if width == _BOTTLENECK:
            return f"bft-adapter@{depth}" if insertion == "adapter" else f"bft@{depth}"
        inserted = {
            "adapter": f"adapter(depth={depth}, bottleneck={width})",
            "late_prompt": f"late_prompt(depth={depth}, bottleneck={_PROMPT_SHARE * width})",
        }
        return f"{inserted[insertion]} | head(mlm=dense,norm,bias)"
    if family in WHOLE:
        on = "attn" if experts else "attn,ffn"
        return full_text(depth, experts=experts) if family == "full" else lora_text(depth, rank=width, on=on)
    frozen = max(1, depth - gap)
    bitfit = [f"{frozen}:{depth} bitfit"] if frozen < depth else []
    lora = f"lora(rank={width}, alpha={2 * width}, on=q,k,v,o) + bitfit(on=ffn,norm_ffn)"
    return " | ".join([f"0:{frozen} frozen", *bitfit, f"{depth}: {lora}"])


def beside(blocks: int, *, lm_head: bool) -> tuple[str, ...]:
    """Plans that probes do not choose, priced along with the candidates: the end frozen, or cut off."""
    if blocks < _FEWEST_TO_CUT:
        return ()
    return ("mid",) if lm_head else ("mid", "1/3: lora | cut(2/3)")


def texts(
    family: str, found: Found, hidden: int, blocks: int, classes: int, *, experts: bool = False
) -> dict[int, str]:
    """The candidate plans of a family by their depth.

    SPAFIT's frozen part moves with the depth, so that BitFit keeps its share.
    """
    gap, width = found.depth - found.frozen, width_of(family, hidden, classes)
    ranges = {"bft": range(1, blocks + 1), "spafit": range(gap + 1, blocks)}
    depths = ranges.get(family, range(min(1, blocks - 1), blocks))
    return {depth: plan_text(family, depth, width, gap=gap, experts=experts) for depth in depths}
