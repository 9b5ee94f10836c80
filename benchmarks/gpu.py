"""On an accelerator: whole epochs of the arms, as ratios, tokens a millisecond, memory, and share of the matrix peak.

    python -m benchmarks.gpu [--device cuda|cpu] [--shape large|base|small] [--lengths sst2|rte] [--plan bft-adapter@18]
        [--rounds 5] [--examples 10240] [--beside ABVF]

In addition to the arms of ``studies/bench/arms.py`` there is V, ``benchmarks/padding_free.py``: A without padding, by
FlashAttention. Random weights, batch 32, bf16 by autocast on all sides. Memory is that of an arm alone; times are of
all arms in turn, the minimum over the rounds. The peak is a large bf16 product's, measured in the same run.
``--beside`` leaves arms out; where V fails it is left out, and its error printed. On a CPU it shows that it runs.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.jobs import Record, row, show_rows, write_rows
from benchmarks.padding_free import PaddingFree
from benchmarks.sides import ROBERTA_LARGE
from benchmarks.trials import SHAPES
from stratatune.costs.cost import cost
from stratatune.plan import Plan, shape_of
from stratatune.studies.bench.arms import BenchSetting, Ours, Stock, lengths_like, random_data

EVERY = 10**9
TRIALS, EPOCHS = 16, 5
GOALS = {"P1": ">= 12x A, >= 4.5x B", "P2": ">= 3.6x B", "P2 one": ">= 1.5x B", "P3": ">= 11x A, >= 4.2x B"}


class Near(BenchSetting):
    """A setting whose models are made on the device, which draws random weights faster than the CPU."""

    def model(self, kind: str, attention: str | None = None) -> torch.nn.Module:
        """See :meth:`BenchSetting.model`."""
        with torch.device(self.device):
            return super().model(kind, attention)


class Arms:
    """The arms, each made when it is needed; ``beside``: those that S is measured with."""

    def __init__(self, setting: BenchSetting, plan: str, beside: str) -> None:
        self.setting, self.plan, self.beside = setting, plan, beside
        self._made: dict[str, Stock | Ours] = {}

    def get(self, name: str) -> Stock | Ours:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Stock | Ours:
        makes: dict[str, Callable[[], Stock | Ours]] = {
            "S": lambda: Ours(self.setting, self.plan, None),
            "F": lambda: Stock(self.setting, lora=False, bucketed=False),
            "A": lambda: Stock(self.setting, lora=True, bucketed=False),
            "B": lambda: Stock(self.setting, lora=True, bucketed=True),
            "V": lambda: PaddingFree(self.setting),
        }
        return makes[name]()

    def clear(self) -> None:
        """Free the arms' memory."""
        self._made.clear()
        gc.collect()
        if self.setting.device == "cuda":
            torch.cuda.empty_cache()


def peak(setting: BenchSetting) -> float:
    """The FLOP/s of a large bf16 product."""
    size = 8192 if setting.device == "cuda" else 1024
    one, other = (torch.randn(size, size, device=setting.device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(30):
        started = setting.waited()
        torch.mm(one, other)
        best = min(best, setting.waited() - started)
    return 2 * size**3 / best


def memory(arms: Arms, name: str) -> float | None:
    """The peak GB of an epoch of one arm, alone on the device; None where nothing counts them."""
    arms.clear()
    if arms.setting.device != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    arm = arms.get(name)
    arm.epoch()
    if isinstance(arm, Ours):  # from the cache, which is near by then
        torch.cuda.reset_peak_memory_stats()
        arm.epoch()
    return torch.cuda.max_memory_allocated() / 1e9


def times(arms: Arms, rounds: int) -> dict[str, float]:
    """The seconds of an epoch by arm; ``build``: of S from an empty cache."""
    best: dict[str, float] = {}

    def note(name: str, run: Callable[[], float]) -> None:
        seconds = run()
        best[name] = min(best.get(name, seconds), seconds)
        print(f"  {name}: {seconds:.3f} s", file=sys.stderr, flush=True)

    ours = arms.get("S")
    assert isinstance(ours, Ours)
    for number in range(rounds + 1):
        if number == 1:
            best.clear()  # the first round warms up
        ours.feed = ours.fresh_feed()
        note("build", ours.epoch)
        note("S", ours.epoch)
        for name in (name for name in "VBAF" if name in arms.beside):
            note(name, arms.get(name).epoch)
    return best


def flops(setting: BenchSetting, plan: str) -> dict[str, float]:
    """The FLOPs of an epoch of each arm, by the cost model."""
    shape, lengths = shape_of(setting.config), setting.data.lengths
    found = cost(Plan.parse(plan), shape, lengths, batch_size=setting.batch_size, dtype="bf16").epochs
    bare = cost(Plan.parse(plan), shape, lengths, batch_size=1, dtype="bf16").epochs  # no padding
    return {
        "S": found["cached"].flops,
        "V": bare["A"].flops,
        **{name: found[name].flops for name in "BAF"},
    }


def told(seconds: dict[str, float]) -> list[tuple[str, str, str]]:
    """The ids, words and figures of the rows of speed."""

    def against(ours: float, epochs: int) -> str:
        return ", ".join(f"{epochs * seconds[name] / ours:.2f}x {name}" for name in "ABVF" if name in seconds)

    build, cached = seconds["build"], seconds["S"]
    return [
        ("P1", "an epoch from the cache", against(cached, 1)),
        ("P2", "ten epochs, cache built in the first", against(build + 9 * cached, 10)),
        ("P2 one", "one epoch that builds the cache", against(build, 1)),
        ("P3", f"{TRIALS} trials x {EPOCHS} epochs on one cache", against(build + 79 * cached, TRIALS * EPOCHS)),
    ]


def rows(setting: BenchSetting, plan: str, rounds: int, beside: str) -> list[Record]:
    """Measure, and return the table's rows."""
    arms = Arms(setting, plan, beside)
    gigabytes: dict[str, float | None] = {}
    for name in (name for name in "FABVS" if name in f"{beside}S"):
        try:
            gigabytes[name] = memory(arms, name)
        except Exception as error:
            if name != "V":
                raise
            print(f"V is left out: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            arms.beside = arms.beside.replace("V", "")
    arms.clear()
    seconds, work, most = times(arms, rounds), flops(setting, plan), peak(setting)
    is_goal_s = setting.config == ROBERTA_LARGE and plan == "bft-adapter@18"
    found = [(id, what, GOALS[id] if is_goal_s else "-", figures) for id, what, figures in told(seconds)]
    tokens = float(setting.data.lengths.sum())
    for name, held in gigabytes.items():
        size = "" if held is None else f"{held:.2f} GB, "
        share = f"{work[name] / seconds[name] / most:.0%} of the matrix peak"
        figures = f"{tokens / seconds[name] / 1000:.1f} tokens/ms, {size}{share}"
        found.append((name, f"arm {name}: speed, memory, share", "-", figures))
    found.append(("peak", "a large bf16 matrix product", "-", f"{most / 1e12:.1f} TFLOP/s"))
    return [row(f"{setting.device} {id}", what, goal, "-", said, "benchmarks.gpu") for id, what, goal, said in found]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="large")
    parser.add_argument("--lengths", choices=("sst2", "rte"), default="sst2")
    parser.add_argument("--plan", default="bft-adapter@18")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=10_240)
    parser.add_argument("--beside", default="ABVF", help="the letters of the arms that S is measured with")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shape = {**ROBERTA_LARGE, **SHAPES[args.shape]}
    data = random_data(lengths_like(args.lengths, args.examples), shape["vocab_size"])
    setting = Near(shape, data, timed=EVERY, device=args.device)
    found = rows(setting, args.plan, args.rounds, args.beside)
    write_rows(found, args.threads, args.out)
    show_rows(found)


if __name__ == "__main__":
    main()
