"""The pictures of README and docs: ``PYTHONPATH=tests python tests/docs/pictures.py``.

Two are drawn by hand (the way of the data, the floors of the package), two from what the package computes or measured
(a plan on its model, accuracy by depth). All are self-contained SVG files, readable in light and dark.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from stratatune.plan import Plan, shape_of
from stratatune.plan.svg import svg
from stratatune.svg_frame import LINE, picture, text

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "stratatune"
FOLDER = ROOT / "docs" / "pictures"
MEASURED = ROOT / "benchmarks" / "results" / "depths.jsonl"

# --- the way of the data ----------------------------------------------------------------------------------------------

BOX, TALL, STEP = 154, 66, 186  # pixels: a box, and from one box to the next
ONCE, EVERY = 116, 272  # tops of the two rows
STEPS = {  # name: (column, row, style, what it is, where it lives)
    "text": (0, ONCE, "plain", "rows of a table", "data/readers.py"),
    "tokens": (1, ONCE, "plain", "ids, flat and ragged", "objective.encode()"),
    "trunk": (2, ONCE, "passes", "blocks 0 to d-1, frozen", "model/split.py"),
    "cache": (3, ONCE, "chosen", "hidden states [T, D]", "cache/"),
    "top": (3, EVERY, "trained", "blocks d to L-1", "model/split.py"),
    "head": (2, EVERY, "trained", "logits", "model/heads/"),
    "objective": (1, EVERY, "plain", "loss, answers, scores", "objectives/"),
    "exit": (0, EVERY, "plain", "adapter, peft, merged", "exits/"),
}
_DATA_RULES = """
.box{fill:none;stroke:$rule;stroke-width:1.5}.box.passes{fill:$passes;stroke:none}.box.chosen{fill:none;stroke:$chosen}
.box.trained{fill:none;stroke:$trained}.way{stroke:currentColor;stroke-width:1.5;fill:none}.tip{fill:currentColor}
.back{stroke:$inserted;stroke-width:1.5;fill:none}.tip.back{fill:$inserted;stroke:none}
.ask{stroke:$first;stroke-width:1.5;fill:none;stroke-dasharray:5 4}.tip.ask{fill:$first;stroke:none}
"""


def _left(name: str) -> int:
    return 24 + STEP * STEPS[name][0]


def _middle(name: str) -> int:
    return _left(name) + BOX // 2


def _box(name: str) -> Iterator[str]:
    _, top, style, what, where = STEPS[name]
    x, middle = _left(name), _middle(name)
    yield f'<rect class="box {style}" x="{x}" y="{top}" width="{BOX}" height="{TALL}" rx="6"/>'
    yield text(middle, top + 20, name, "strong mid")
    yield text(middle, top + 39, what, "mid")
    yield text(middle, top + 57, where, "mid soft")


def _tip(x: float, y: float, towards: str, style: str = "") -> str:
    """The head of an arrow whose point is at (x, y)."""
    shape = {"right": "l-8 -5v10z", "left": "l8 -5v10z", "down": "l-5 -8h10z", "up": "l-5 8h10z"}[towards]
    return f'<path class="tip {style}" d="M{x} {y}{shape}"/>'


def data() -> str:
    """From a row of text to a trained adapter, and what runs how often."""
    body = [
        text(24, ONCE - 14, "once for each example, in eval mode, without autograd", "soft"),
        text(24, EVERY + TALL + 74, "every epoch, seed and trial starts from the cache", "soft"),
    ]
    for name in STEPS:
        body += _box(name)
    for first, second in (("text", "tokens"), ("tokens", "trunk"), ("trunk", "cache")):
        y = ONCE + TALL // 2
        body += [f'<path class="way" d="M{_left(first) + BOX + 4} {y}H{_left(second) - 8}"/>']
        body += [_tip(_left(second) - 4, y, "right")]
    body += [f'<path class="way" d="M{_middle("cache")} {ONCE + TALL + 4}V{EVERY - 8}"/>']
    body += [_tip(_middle("cache"), EVERY - 4, "down")]
    for first, second in (("top", "head"), ("head", "objective"), ("objective", "exit")):
        y = EVERY + TALL // 2
        body += [f'<path class="way" d="M{_left(first) - 4} {y}H{_left(second) + BOX + 8}"/>']
        body += [_tip(_left(second) + BOX + 4, y, "left")]
    return picture(
        "stw",
        "The way of the data",
        "d is the frozen depth, L the number of blocks, T tokens, D the hidden size",
        "Text is encoded, runs once through the frozen trunk, and its hidden states are cached. From the cache, every "
        "epoch runs the top and the head; the objective gives the loss, whose gradient stops at the frozen depth. An "
        "exit writes what was trained.",
        [*body, *_question(), *_gradient()],
        height=EVERY + TALL + 92,
        rules=_DATA_RULES,
    )


def _question() -> Iterator[str]:
    """What the objective asks of top and head: above their row."""
    y, top = EVERY - 34, _left("top") + 34
    yield f'<path class="ask" d="M{_middle("objective")} {EVERY - 4}V{y}H{top}V{EVERY - 12}"/>'
    yield f'<path class="ask" d="M{_middle("head")} {y}V{EVERY - 12}"/>'
    yield _tip(_middle("head"), EVERY - 4, "down", "ask")
    yield _tip(top, EVERY - 4, "down", "ask")
    yield text(_middle("objective") + 8, y - 8, "question: which logits are wanted")


def _gradient() -> Iterator[str]:
    """The backward pass, below the row: from the loss to the frozen depth."""
    y = EVERY + TALL + 28
    start, end = f"M{_middle('objective')} {EVERY + TALL + 4}", f"V{EVERY + TALL + 12}"
    yield f'<path class="back" d="{start}V{y}H{_middle("top")}{end}"/>'
    yield _tip(_middle("top"), EVERY + TALL + 4, "up", "back")
    yield text(_middle("objective") + 8, y + 18, "backward: stops at the frozen depth")


# --- the floors -------------------------------------------------------------------------------------------------------

_LINE, _GAP, _FLOORS_TOP = 20, 5, 78  # pixels
_FLOOR_RULES = """
.floor{fill:none;stroke:$rule;stroke-width:1.5}.floor.torch{fill:$passes;stroke:none}
"""


def floors() -> list[list[str]]:
    """The package's floors as import-linter holds them, the highest first."""
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    (listed,) = re.findall(r"^layers = (\[.*?^\])", project, re.DOTALL | re.MULTILINE)
    return [re.split(r"\s*[|:]\s*", floor) for floor in ast.literal_eval(listed)]


def floor_plan() -> str:
    """A floor imports only those below it."""
    body, y, rows = list[str](), _FLOORS_TOP, floors()
    for rooms in rows:
        files = [f"{room}.py" for room in rooms if (PACKAGE / f"{room}.py").is_file()]
        lines = [(", ".join(files), "")] if files else [(room, purpose(room)) for room in rooms]
        height = _LINE * len(lines) + 8
        style = "floor torch" if any(map(_imports_torch, rooms)) else "floor"
        body.append(f'<rect class="{style}" x="24" y="{y}" width="712" height="{height}" rx="4"/>')
        for number, (name, what) in enumerate(lines):
            baseline = y + 4 + _LINE * (number + 0.5) + LINE
            body += [text(36, baseline, name, "strong"), text(160, baseline, what, "soft")]
        y += height + _GAP
    names = ", ".join(" and ".join(rooms) for rooms in rows)
    return picture(
        "stf",
        "The floors of src/stratatune",
        "A floor imports only the floors below it. Filled: some file of it imports torch at once",
        f"From the top down: {names}.",
        body,
        height=y + 12,
        rules=_FLOOR_RULES,
    )


def purpose(room: str) -> str:
    """The first sentence of a room's own docstring."""
    first = (importlib.import_module(f"stratatune.{room}").__doc__ or "").strip().splitlines()[0]
    return first.removesuffix(" No torch.").rstrip(".")


def _imports_torch(room: str) -> bool:
    """Whether a file of the room imports torch as soon as it is imported itself."""
    place = PACKAGE / room
    files = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
    return any(re.search(r"^(import|from) torch\b", file.read_text("utf-8"), re.MULTILINE) for file in files)


# --- a plan, and accuracy by depth ------------------------------------------------------------------------------------


def plan() -> str:
    """A preset of SPAFIT on the model of its paper."""
    return svg(Plan.parse("spafit-4-9-II").resolve(shape_of("roberta-large")))


_CURVE_RULES = """
.rule{stroke:$rule;stroke-width:1}.line{stroke:$first;stroke-width:2;fill:none}.dot{fill:$first}.seed{fill:$plain}
.trunk{fill:$passes}.top{fill:$trained}
"""
_X, _ACROSS, _SCORES, _SECONDS = 120, 130, (100, 290), (346, 446)  # pixels: of depth 1, between depths, two panels


def curve() -> str:
    """Accuracy and seconds by the depth at which the adapter stands."""
    scores, seconds = defaultdict[int, list[float]](list), defaultdict[int, list[tuple[float, float]]](list)
    for run in map(json.loads, MEASURED.read_text("utf-8").splitlines()):
        if run["order"] == "length":
            depth = int(run["arm"].partition("@")[2])
            scores[depth].append(100 * run["score"])
            seconds[depth].append((run["trunk_seconds"], run["seconds"]))
    means = {depth: mean(values) for depth, values in sorted(scores.items())}
    listed = "; ".join(
        f"depth {d}: {value:.1f} % in {mean(s for _, s in seconds[d]):.0f} s" for d, value in means.items()
    )
    return picture(
        "stc",
        "TREC on a six-block MiniLM: BFT's adapter at every depth",
        "test accuracy in %, 3 epochs: each of 3 seeds, and their mean; below it seconds on one CPU thread",
        f"Mean accuracy and seconds of a run. {listed}.",
        [*_accuracy(means, scores), *_time(seconds)],
        height=_SECONDS[1] + 52,
        rules=_CURVE_RULES,
    )


def _accuracy(means: dict[int, float], scores: dict[int, list[float]]) -> Iterator[str]:
    low, high = 92, 98
    top, base = _SCORES

    def up(value: float) -> float:
        return base - (base - top) * (value - low) / (high - low)

    for tick in range(low, high + 1, 2):
        yield f'<path class="rule" d="M74 {up(tick):.1f}H736"/>'
        yield text(66, up(tick) + LINE, str(tick), "end soft")
    for depth, values in sorted(scores.items()):
        yield from (f'<circle class="seed" cx="{_at(depth)}" cy="{up(one):.1f}" r="3"/>' for one in values)
    yield f'<path class="line" d="M{"L".join(f"{_at(depth)} {up(value):.1f}" for depth, value in means.items())}"/>'
    for depth, value in means.items():
        yield f'<circle class="dot" cx="{_at(depth)}" cy="{up(value):.1f}" r="4.5"/>'
        yield text(_at(depth) + 12, up(value) - 9, f"{value:.1f}", "strong")


def _time(seconds: dict[int, list[tuple[float, float]]]) -> Iterator[str]:
    top, base = _SECONDS
    most = max(mean(whole for _, whole in runs) for runs in seconds.values())
    yield f'<rect class="trunk" x="74" y="{top - 33}" width="12" height="12"/>'
    yield text(92, top - 22, "seconds: the trunk, once", "soft")
    yield f'<rect class="top" x="262" y="{top - 33}" width="12" height="12"/>'
    yield text(280, top - 22, "the top, three times", "soft")
    yield f'<path class="rule" d="M74 {base}H736"/>'
    for depth, runs in sorted(seconds.items()):
        trunk, whole = (mean(part) for part in zip(*runs, strict=True))
        first, second = (base - (base - top) * value / most for value in (trunk, whole))
        yield f'<rect class="trunk" x="{_at(depth) - 22}" y="{first:.1f}" width="44" height="{base - first:.1f}"/>'
        yield f'<rect class="top" x="{_at(depth) - 22}" y="{second:.1f}" width="44" height="{first - second:.1f}"/>'
        yield text(_at(depth), second - 5, f"{whole:.0f}", "mid")
        yield text(_at(depth), base + 20, str(depth), "mid soft")
    yield text(736, base + 40, "depth of the adapter", "end soft")


def _at(depth: int) -> int:
    return _X + _ACROSS * (depth - 1)


PICTURES = {"data": data, "floors": floor_plan, "plan": plan, "depths": curve}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(draw().rstrip("\n") + "\n", encoding="utf-8")
