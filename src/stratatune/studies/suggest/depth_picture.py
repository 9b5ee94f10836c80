"""The picture of a suggestion: what each depth tells of the labels, beside what a run from there costs. One SVG file.

Two panels over the same depths: the probes with one standard error, and the work of a run. No script, no font and no
file from outside; readable in light and dark. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from stratatune.studies.suggest.probing import Probe

if TYPE_CHECKING:
    from stratatune.studies.suggest.suggestion import Suggestion

_WIDTH, _LEFT, _RIGHT, _TOP, _PROBES, _COSTS, _GAP = 760, 74, 736, 108, 250, 120, 54
_NAMES = {"read": "at the position read", "mean": "mean over the tokens", "control": "labels in random order"}
_STYLE = """
.std{color:#1f2328}
.std text{font:13px ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;fill:currentColor}
.std .title{font-size:15px;font-weight:600}.std .soft{opacity:.68}
.std .end{text-anchor:end}.std .mid{text-anchor:middle}
.std .rule{stroke:#d1d9e0;stroke-width:1}.std .line{fill:none;stroke-width:2}
.std .read{stroke:#0b63b0;fill:#0b63b0}.std .mean{stroke:#0f7a55;fill:#0f7a55}.std .control{stroke:#6b7580;fill:#6b7580}
.std .line.mean{stroke-dasharray:6 4}.std .line.control{stroke-dasharray:2 3}.std .line{fill:none}
.std .bar{fill:#b9d7ea}.std .bar.chosen{fill:#b7791f}.std .bar.over{fill:none;stroke:#b3261e;stroke-dasharray:3 3}
.std .pick{stroke:#b7791f;stroke-width:2;stroke-dasharray:5 4}
@media (prefers-color-scheme:dark){.std{color:#e6edf3}.std .rule{stroke:#343c46}
.std .read{stroke:#6cb2f7;fill:#6cb2f7}.std .mean{stroke:#4cc38a;fill:#4cc38a}.std .control{stroke:#a3adb8;fill:#a3adb8}
.std .line{fill:none}.std .bar{fill:#2f4a60}.std .bar.chosen{fill:#d9a441}.std .bar.over{stroke:#ff8f86}
.std .pick{stroke:#d9a441}}
""".replace("\n", "")


def svg(found: Suggestion) -> str:
    """The picture as a self-contained SVG file."""
    view, chosen = found.views[0], found.chosen
    height = _TOP + _PROBES + _GAP + _COSTS + 44
    measure = "correlation" if view.value else "area under the ROC curve"
    title = f"{found.plan} for {found.model.rstrip('/').rpartition('/')[2]}"
    told = "; ".join(f"depth {p.depth} {p.score:.2f} ± {p.error:.2f}" for p in view.probes if p.reading == "read")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="std" role="img" aria-labelledby="std-t std-d"'
        f' viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" style="max-width:100%;height:auto">',
        f'<title id="std-t">{escape(title)}</title>',
        f'<desc id="std-d">What each depth tells of the labels, {measure}: {escape(told)}.'
        f" Chosen: depth {chosen.depth}.</desc>",
        f"<style>{_STYLE}</style>",
        _text(24, 30, _cut(title), "title"),
        _text(24, 52, f"{found.samples} of {found.rows} examples; {measure}, one standard error over 5 folds", "soft"),
    ]
    across = _across(found.blocks)
    parts.append(_pick(across(chosen.depth)))
    parts += _probes(view.probes, across)
    parts += _costs(found, across)
    return "\n".join((*parts, "</svg>")) + "\n"


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
        yield _text(_LEFT - 8, up(tick) + 4.5, f"{tick:.2f}", "end soft")
    for number, (name, line) in enumerate(lines.items()):
        yield f'<path class="line {name}" d="M{"L".join(f"{across(d):.1f} {up(v):.1f}" for d, v, _ in line)}"/>'
        for depth, value, error in line:
            x, span = across(depth), f"{up(value - error):.1f}V{up(value + error):.1f}"
            yield f'<path class="{name}" stroke-width="1.5" d="M{x:.1f} {span}"/>'
            yield f'<circle class="{name}" cx="{x:.1f}" cy="{up(value):.1f}" r="3.2"/>'
        x = _LEFT + 215 * number
        yield f'<path class="line {name}" d="M{x} 80h26"/><circle class="{name}" cx="{x + 13}" cy="80" r="3.2"/>'
        yield _text(x + 34, 84.5, _NAMES[name])


def _costs(found: Suggestion, across: Callable[[float], float]) -> Iterator[str]:
    """The lower panel: the work of a run from each depth; the chosen one filled, those over a budget dashed."""
    candidates = found.views[0].candidates
    base, most = _TOP + _PROBES + _GAP + _COSTS, max(one.flops for one in candidates)
    top = base - _COSTS
    yield _text(24, top - 14, "work of the run, trunk cached (TFLOP), by depth of " + _what(found), "soft")
    yield f'<path class="rule" d="M{_LEFT} {base}H{_RIGHT}"/>'
    yield _text(_LEFT - 8, top + 4.5, f"{most / 1e12:.3g}", "end soft")
    yield _text(_LEFT - 8, base + 4.5, "0", "end soft")
    width = min(34.0, (across(1) - across(0)) * 0.6)
    for one in candidates:
        tall, x = _COSTS * one.flops / most, across(one.depth)
        state = " chosen" if one.depth == found.depth else " over" if one.over else ""
        place = f'x="{x - width / 2:.1f}" y="{base - tall:.1f}" width="{width:.1f}" height="{tall:.1f}"'
        yield f'<rect class="bar{state}" {place} rx="3"/>'
    every = max(1, -(-found.blocks // 16))
    for depth in range(0, found.blocks + 1, every):
        yield _text(across(depth), base + 20, str(depth), "mid soft")
    yield _text(_RIGHT, base + 38, "depth", "end soft")


def _what(found: Suggestion) -> str:
    return "the insertion" if found.family == "bft" else "LoRA's start"


def _ticks(low: float, high: float) -> list[float]:
    """Round values that span the range, four to eight of them."""
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if (high - low) / s <= 7)
    first = int(low / step + 1e-9) - (low < 0)
    return [round((first + n) * step, 4) for n in range(9) if (first + n - 1) * step < high]


def _cut(title: str) -> str:
    return title if len(title) < 92 else title[:90] + "…"


def _text(x: float, y: float, text: str, classes: str = "") -> str:
    named = f' class="{classes}"' if classes else ""
    return f'<text{named} x="{x:g}" y="{y:.1f}">{escape(text)}</text>'
