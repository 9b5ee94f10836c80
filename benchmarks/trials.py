"""Trials that make their steps together against the same trials in turns, as ratios, in one process, sides alternating.

    python -m benchmarks.trials [--trials 16] [--shape large|base|small] [--lengths sst2|rte] [--plan bft-adapter]
        [--precision bf16|fp32] [--device cuda|cpu] [--rounds 5] [--batches 6] [--threads 1]

Random weights, random hidden states in the cache, batch 32; the trials differ in their rates. The timed part is a
trial's work on a batch: collating, reading, forward, backward, clipping, the optimiser's step; not evaluation or
checkpoints. Each round has different batches, the same on both sides: the figure is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.jobs import Record, row, show_rows, write_rows
from benchmarks.sides import ROBERTA_LARGE
from stratatune._compat import accelerator_for
from stratatune.cache.keys import CacheKey
from stratatune.cache.store import TrunkCache
from stratatune.model.attach import apply
from stratatune.model.base import attention_for_training
from stratatune.model.precision import Casts, cast_frozen
from stratatune.progress import Reporter
from stratatune.studies.bench.arms import PADDING, BenchSetting, lengths_like, random_data
from stratatune.training.config import validate
from stratatune.training.forward import Forward
from stratatune.training.loop import steps
from stratatune.training.session import Session
from stratatune.training.trials.many import take_turns
from stratatune.training.trials.sharing import ReadOnce, twin
from stratatune.training.trials.together import Together
from stratatune.training.trials.turns import Turns

SHAPES: dict[str, Record] = {
    "large": {},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "small": {"hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 4, "intermediate_size": 1024},
}
EXAMPLES = 10_240


class Bench:
    """Both sides over one model's weights and one cache."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        shape = {**ROBERTA_LARGE, **SHAPES[args.shape]}
        data = random_data(lengths_like(args.lengths, EXAMPLES), shape["vocab_size"])
        self.setting = BenchSetting(shape, data, bf16=args.precision == "bf16", device=args.device)
        self.base: Any = self.setting.model("classification", attention_for_training(args.device)).eval()
        self.casts: Casts = {}
        self.last: dict[bytes, torch.Tensor] = {}
        self.cache: TrunkCache | None = None

    def side(self, name: str) -> list[Turns]:
        """Trials with different rates, each at its first batch."""
        found = [Turns(steps(self._session(name, number))) for number in range(self.args.trials)]
        for one in found:
            one.take()
        return found

    def _session(self, name: str, number: int) -> Session:
        args, setting = self.args, self.setting
        out = self.folder / f"{name}-{number}"
        out.mkdir()
        given = {"model": "random", "train": "random", "plan": args.plan, "device": args.device, "epochs": 1}
        config = validate({**given, "lr": 1e-4 * (number + 1), "out": str(out)}, check_files=False)
        accelerator = accelerator_for(args.device, (), out)
        torch.manual_seed(0)
        model = apply(twin(self.base), config.plan)
        for parameter in model.attached.trained().values():
            parameter.data = parameter.data.clone()
        autocast = torch.bfloat16 if setting.bf16 else None
        if autocast is not None:
            cast_frozen(model.attached, autocast, self.casts)
        model.to(accelerator.device)
        objective, data = setting.learnt("classification")
        forward = Forward.of(model.attached, objective, PADDING, accelerator.device, autocast)
        feed = forward.feed(self._filled(model))
        return Session(
            config=config,
            accelerator=accelerator,
            forward=forward,
            train=data,
            feed=ReadOnce(feed, self.last),
            eval=None,
            eval_feed=None,
            eval_parts=(),
            out=out,
            reporter=Reporter(quiet=True, name=out.name),
            settings=config.model_dump(mode="json", exclude={"out"}),
            facts={},
        )

    def _filled(self, model: Any) -> TrunkCache:
        """A cache of random hidden states, the same for all trials."""
        if self.cache is None:
            strata, lengths = model.attached, self.setting.data.lengths
            width, dtype = strata.resolved.shape.hidden, "bf16" if self.setting.bf16 else "fp32"
            key = CacheKey("w", "t", "", "random", 512, strata.resolved.frozen_depth, "all", dtype, ())
            self.cache = TrunkCache.open(None, key, lengths, width)
            every = torch.arange(len(lengths)).numpy()
            for start in range(0, len(every), 512):
                index = every[start : start + 512]
                self.cache.put(index, torch.randn(int(lengths[index].sum()), width))
            self.cache.flush()
        return self.cache


def measured(args: argparse.Namespace) -> list[Record]:
    """Measure rounds of some batches: all trials in turns, then the same batches by all trials together."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        reporter = Reporter()
        sides = {name: (bench.side(name), Together(name, reporter)) for name in ("never", "always")}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(args.rounds + 1):
            for name, (turns, together) in sides.items():
                bench.last.clear()
                started = bench.setting.waited()
                for _ in range(args.batches if number else 1):  # the first batch warms up, and is the one of the proof
                    take_turns(turns, together)
                if number:
                    seconds[name].append(bench.setting.waited() - started)
        if reporter.notices:
            raise SystemExit("; ".join(reporter.notices))
    ratios = [one / other for one, other in zip(seconds["never"], seconds["always"], strict=True)]
    what = f"{args.trials} trials at once against in turns, {args.plan}, {args.shape}, {args.lengths}, {args.precision}"
    words = f"{median(ratios):.2f}x trials per hour (rounds: {min(ratios):.2f} to {max(ratios):.2f})"
    name = f"P3 together {args.shape} {args.precision} {args.device}"
    return [row(name, what, ">= 5x on a GPU", "-", words, "benchmarks.trials")]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="large")
    parser.add_argument("--lengths", choices=("sst2", "rte"), default="sst2")
    parser.add_argument("--plan", default="bft-adapter")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = measured(args)
    write_rows(rows, args.threads, args.out)
    show_rows(rows)


if __name__ == "__main__":
    main()
