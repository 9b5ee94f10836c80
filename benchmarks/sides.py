"""Shared parts of the benches of ``run.py``: the shape, the plan, and the arms, each made once and timed in turn."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from stratatune.studies.bench.arms import BenchSetting, Ours, Stock

ROBERTA_LARGE = {
    "model_type": "roberta", "vocab_size": 50265, "hidden_size": 1024, "num_hidden_layers": 24,
    "num_attention_heads": 16, "intermediate_size": 4096, "max_position_embeddings": 514, "type_vocab_size": 1,
    "pad_token_id": 1, "layer_norm_eps": 1e-5,
}  # fmt: skip
PLAN = "bft-adapter@18"


@dataclass
class Bench:
    """The shared parts of the benches: the setting, and the arms, each made once."""

    setting: BenchSetting
    rounds: int
    folder: Path
    beside: str = "ABF"
    """The baseline arms with which S is timed."""
    arms: dict[str, Stock | Ours] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)

    def arm(self, name: str) -> Stock | Ours:
        """The arm called ``name``; A and B share one model, so that memory holds them all."""
        if name not in self.arms:
            self.arms[name] = self._make(name)
        return self.arms[name]

    def _make(self, name: str) -> Stock | Ours:
        if name == "S":
            return Ours(self.setting, PLAN, self.folder)
        if name == "F":
            return Stock(self.setting, lora=False, bucketed=False)
        if name == "A":
            return Stock(self.setting, lora=True, bucketed=False)
        if name == "A32":
            return Stock(self.setting, lora=True, bucketed=False, bf16=False)
        other = self.arm("A")
        assert isinstance(other, Stock)
        return other.cut_by_length()

    def drop(self, *names: str) -> None:
        """Free the memory of some arms; they are made again when they are needed."""
        for name in names:
            self.arms.pop(name, None)
        gc.collect()

    def time(self, name: str, run: Callable[[], float]) -> float:
        """Run an epoch once, remember its time and print it."""
        seconds = run()
        self.times.setdefault(name, []).append(seconds)
        print(f"  {name}: {seconds:.2f} s", file=sys.stderr, flush=True)
        return seconds

    def best(self, name: str) -> float:
        """The minimum over the rounds."""
        return min(self.times[name])

    def against(self, seconds: float, epochs: int) -> str:
        """The baselines' times as multiples of S's, for this many epochs."""
        return ", ".join(f"{epochs * self.best(name) / seconds:{_digits(name)}}x {name}" for name in self.beside)

    def ours(self) -> Ours:
        arm = self.arm("S")
        assert isinstance(arm, Ours)
        return arm


def measure_epochs(bench: Bench) -> None:
    """Time rounds of: an epoch that builds the cache, epochs from it, then the baseline arms."""
    ours = bench.ours()
    for _ in range(bench.rounds):
        ours.feed = ours.fresh_feed()
        bench.time("build", ours.epoch)
        for _ in range(3):
            bench.time("S", ours.epoch)
        for name in bench.beside:
            bench.time(name, bench.arm(name).epoch)


def _digits(name: str) -> str:
    return ".2f" if name == "B" else ".1f"
