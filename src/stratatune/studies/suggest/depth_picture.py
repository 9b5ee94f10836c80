"""The picture of a suggestion: how well each depth predicts the labels, and the cost of a run from there. One SVG.

Two panels over the same depths: the probes with one standard error, and the work of a run. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from stratatune.studies.suggest.probing import Probe
from stratatune.studies.suggest.view import View
from stratatune.svg_frame import LINE, picture, text

_LEFT, _RIGHT, _TOP, _PROBES, _COSTS, _GAP = 74, 736, 108, 250, 120, 54
_NAMES = {"read": "at the position read", "mean": "mean over the tokens", "control": "targets in random order"}
_RULES = """
.rule{stroke:$rule;stroke-width:1}.line{stroke-width:2}
.read{stroke:$first;fill:$first}.mean{stroke:$trained;fill:$trained}.control{stroke:$plain;fill:$plain}
.line.mean{stroke-dasharray:6 4}.line.control{stroke-dasharray:2 3}.line.read,.line.mean,.line.control{fill:none}
.bar{fill:$passes}.bar.chosen{fill:$chosen}.bar.over{fill:none;stroke:$wrong;stroke-dasharray:3 3}
.pick{stroke:$chosen;stroke-width:2;stroke-dasharray:5 4}
"""


def svg(view: View, chosen: int, title: str, read: str) -> str:
    """The picture as a self-contained SVG file.

    Args:
        view: the probes and the candidates of every depth.
        chosen: the depth that is proposed.
        title: its first line.
        read: how many examples the probes saw, in words.
    """
    height = _TOP + _PROBES + _GAP + _COSTS + 44
    measure = "correlation" if view.value else "area under the ROC curve"
    scores = "; ".join(f"depth {p.depth} {p.score:.2f} ± {p.error:.2f}" for p in view.probes if p.reading == "read")
    description = f"How well each depth predicts {view.probed}, {measure}: {scores}. Chosen: depth {chosen}."
    blocks = max(one.depth for one in view.probes)
    across = _across(blocks)
    body = [_pick(across(chosen)), *_probes(view.probes, across), *_costs(view, chosen, blocks, across)]
    subtitle = f"{read}; {measure}, one standard error over 5 folds"
    return picture("std", title, subtitle, description, body, height=height, rules=_RULES) + "\n"


def _across(blocks: int) -> Callable[[float], float]:
    step = (_RIGHT - _LEFT - 40) / max(1, blocks)
    return lambda depth: _LEFT + 20 + depth * step


def _pick(x: float) -> str:
    """The line through both panels at the chosen depth."""
    return f'<path class="pick" d="M{x:.1f} {_TOP}V{_TOP + _PROBES + _GAP + _COSTS}"/>'


def _probes(probes: Sequence[Probe], across: Callable[[float], float]) -> Iterator[str]:
    """The upper panel: a line for each reading, and the control of the position read."""
    readings = list(dict.fromkeys(one.reading for one in probes))
    lines = {name: [(p.depth, p.score, p.error) for p in probes if p.reading == name] for name in readings}
    lines["control"] = [(p.depth, p.control, p.control_error) for p in probes if p.reading == readings[0]]
    low = min(value - error for line in lines.values() for _, value, error in line)
    high = max(value + error for line in lines.values() for _, value, error in line)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def up(value: float) -> float:
        return _TOP + _PROBES * (1 - (value - low) / max(high - low, 1e-9))

    for tick in ticks:
        yield f'<path class="rule" d="M{_LEFT} {up(tick):.1f}H{_RIGHT}"/>'
        yield text(_LEFT - 8, up(tick) + LINE, f"{tick:.2f}", "end soft")
    for number, (name, line) in enumerate(lines.items()):
        yield f'<path class="line {name}" d="M{"L".join(f"{across(d):.1f} {up(v):.1f}" for d, v, _ in line)}"/>'
        for depth, value, error in line:
            x, span = across(depth), f"{up(value - error):.1f}V{up(value + error):.1f}"
            yield f'<path class="{name}" stroke-width="1.5" d="M{x:.1f} {span}"/>'
            yield f'<circle class="{name}" cx="{x:.1f}" cy="{up(value):.1f}" r="3.2"/>'
        x = _LEFT + 215 * number
        yield f'<path class="line {name}" d="M{x} 80h26"/><circle class="{name}" cx="{x + 13}" cy="80" r="3.2"/>'
        yield text(x + 34, 84.5, _NAMES[name])


def _costs(view: View, chosen: int, blocks: int, across: Callable[[float], float]) -> Iterator[str]:
    """The lower panel: the work of a run from each depth; the chosen one filled, those over a budget dashed."""
    candidates = view.candidates
    base, most = _TOP + _PROBES + _GAP + _COSTS, max(one.flops for one in candidates)
    top = base - _COSTS
    yield text(24, top - 14, "work of the run, trunk cached (TFLOP), by depth of " + _what(view), "soft")
    yield f'<path class="rule" d="M{_LEFT} {base}H{_RIGHT}"/>'
    yield text(_LEFT - 8, top + LINE, f"{most / 1e12:.3g}", "end soft")
    yield text(_LEFT - 8, base + LINE, "0", "end soft")
    width = min(34.0, (across(1) - across(0)) * 0.6)
    for one in candidates:
        tall, x = _COSTS * one.flops / most, across(one.depth)
        state = " chosen" if one.depth == chosen else " over" if one.over else ""
        place = f'x="{x - width / 2:.1f}" y="{base - tall:.1f}" width="{width:.1f}" height="{tall:.1f}"'
        yield f'<rect class="bar{state}" {place} rx="3"/>'
    every = max(1, -(-blocks // 16))
    for depth in range(0, blocks + 1, every):
        yield text(across(depth), base + 20, str(depth), "mid soft")
    yield text(_RIGHT, base + 38, "depth", "end soft")


def _what(view: View) -> str:
    return {"bft": "the insertion", "full": "the lowest block that trains"}.get(view.family, "LoRA's start")


def _ticks(low: float, high: float) -> list[float]:
    """Round values that span the range, four to eight of them."""
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if (high - low) / s <= 7)
    first = int(low / step + 1e-9) - (low < 0)
    return [round((first + n) * step, 4) for n in range(9) if (first + n - 1) * step < high]
