"""Speed and memory of stratatune beside what people use today, as ratios, in one process, sides taken in turn.

    python -m benchmarks.run [--only P1,P6] [--rounds 5] [--batches 6] [--threads 1]

Prints one table and writes ``benchmarks/results/<date>-<machine>.json``. ``study/arms.py`` describes the arms.
The shape is RoBERTa-large with random weights, depth 18, batch 32, SST-2-like lengths, bf16. Every figure is a ratio of
the minimum over the rounds. A limit is what counting operations allows with no overhead at all.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean

import torch
from torch import nn

from stratatune.data.batching import Batch
from stratatune.model.release import release_trunk
from stratatune.study.arms import Ours, Setting, Stock, lengths_like, random_data
from stratatune.study.counters import resident_bytes, saved_bytes

ROBERTA_LARGE = {
    "model_type": "roberta", "vocab_size": 50265, "hidden_size": 1024, "num_hidden_layers": 24,
    "num_attention_heads": 16, "intermediate_size": 4096, "max_position_embeddings": 514, "type_vocab_size": 1,
    "pad_token_id": 1, "layer_norm_eps": 1e-5,
}  # fmt: skip
PLAN = "bft-adapter@18"


@dataclass
class Bench:
    """What the benches share: the setting, and the arms, each made once."""

    setting: Setting
    rounds: int
    folder: Path
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

    def time(self, name: str, run: Callable[[], float]) -> float:
        """Run once, remember, say."""
        seconds = run()
        self.times.setdefault(name, []).append(seconds)
        print(f"  {name}: {seconds:.2f} s", file=sys.stderr, flush=True)
        return seconds

    def best(self, name: str) -> float:
        """The minimum over the rounds."""
        return min(self.times[name])

    def ours(self) -> Ours:
        arm = self.arm("S")
        assert isinstance(arm, Ours)
        return arm


def measure_epochs(bench: Bench) -> None:
    """Rounds of: an epoch that builds the cache, epochs from it, then B, A and F."""
    ours = bench.ours()
    for _ in range(bench.rounds):
        ours.feed = ours.fresh_feed()
        bench.time("build", ours.epoch)
        for _ in range(3):
            bench.time("S", ours.epoch)
        for name in ("B", "A", "F"):
            bench.time(name, bench.arm(name).epoch)


Row = dict[str, str | float]


def row(id: str, what: str, goal: str, limit: str, measured: str) -> Row:
    """One line of the table."""
    return {
        "id": id,
        "what": what,
        "goal": goal,
        "limit": limit,
        "measured": measured,
        "command": " ".join(("python -m benchmarks.run", *sys.argv[1:])),
    }


def p1(bench: Bench) -> list[Row]:
    """An epoch from the cache."""
    a, b, f = (bench.best(name) / bench.best("S") for name in "ABF")
    return [
        row(
            "P1",
            "an epoch from the cache",
            ">= 12x A, >= 4.5x B",
            "13.9x A, 4.65x B",
            f"{a:.1f}x A, {b:.2f}x B, {f:.1f}x F",
        )
    ]


def p2(bench: Bench) -> list[Row]:
    """Ten epochs with the cache build; one epoch that builds while it trains."""
    ten = bench.best("build") + 9 * bench.best("S")
    b, a, f = (10 * bench.best(name) / ten for name in "BAF")
    one = bench.best("B") / bench.best("build")
    return [
        row(
            "P2", "ten epochs, cache built in the first", ">= 3.6x B", "3.95x B", f"{b:.2f}x B, {a:.1f}x A, {f:.1f}x F"
        ),
        row(
            "P2 one",
            "one epoch that builds the cache",
            ">= 1.5x B",
            "1.70x B",
            f"{one:.2f}x B, {bench.best('A') / bench.best('build'):.1f}x A",
        ),
    ]


def p3(bench: Bench) -> list[Row]:
    """Sixteen trials of five epochs on one cache, from the epochs measured above."""
    ours = bench.best("build") + 79 * bench.best("S")
    a, b = (80 * bench.best(name) / ours for name in "AB")
    return [
        row(
            "P3",
            "16 trials x 5 epochs on one cache",
            ">= 11x A, >= 4.2x B",
            "13.6x A, 4.54x B",
            f"{a:.1f}x A, {b:.2f}x B",
        )
    ]


def p4(bench: Bench) -> list[Row]:
    """Ours in bf16 against A in fp32."""
    for _ in range(min(bench.rounds, 2)):
        bench.time("A32", bench.arm("A32").epoch)
        bench.time("S", bench.ours().epoch)
    return [
        row(
            "P4", "ours in bf16 against A in fp32", ">= 25x", "about 54x", f"{bench.best('A32') / bench.best('S'):.1f}x"
        )
    ]


def p5(bench: Bench) -> list[Row]:
    """The share of the MLM head, and the same top with transformers' head over every position."""
    ours = bench.ours()
    batches = list(ours.batches())
    backbone = ours.model.strata.backbone

    def head_only(words: torch.Tensor | None) -> float:
        hidden = torch.randn(32, 1, 1024, requires_grad=True)
        started = time.perf_counter()
        for _ in batches:
            with bench.setting.mixed():
                logits = backbone.head(hidden, words, torch.ones(32, 1, dtype=torch.bool))
            logits.float().logsumexp(-1).sum().backward()
        return time.perf_counter() - started

    def epoch(over_words: bool) -> float:
        ours.over_words = over_words
        try:
            return ours.epoch()
        finally:
            ours.over_words = False

    def every_position() -> float:
        started = time.perf_counter()
        for batch in batches:
            hidden = ours.feed.hidden(batch)
            with bench.setting.mixed():
                calls = backbone.calls(hidden, batch.mask)
                for depth in range(ours.top.depth, 24):
                    for insertion in ours.model.strata.insertions_at(depth):
                        hidden, _ = insertion(hidden, batch.mask)
                    hidden = backbone.run_block(depth, hidden, calls[depth])
                logits = backbone.model.lm_head(hidden)
            labels = torch.full(batch.input_ids.shape, -100).scatter(
                1, batch.read[:, None], ours.words[batch.labels][:, None]
            )
            nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten()).backward()
            torch.nn.utils.clip_grad_norm_(ours.trained, 1.0)
            ours.optimiser.step()
            ours.optimiser.zero_grad()
        return time.perf_counter() - started

    for _ in range(bench.rounds):
        bench.time("head", lambda: head_only(None))
        bench.time("head, label words", lambda: head_only(ours.words))
        bench.time("S", lambda: epoch(over_words=False))
        bench.time("S, label words", lambda: epoch(over_words=True))
        bench.time("transformers' head", every_position)
    share, gain = bench.best("head") / bench.best("S"), bench.best("transformers' head") / bench.best("S")
    of_words = bench.best("head, label words") / bench.best("S, label words")
    return [
        row("P5", "the MLM head's share of a step, loss over the label words", "<= 2 %", "0.3 %", f"{of_words:.1%}"),
        row("P5 vocabulary", "the same, loss over the whole vocabulary as in LPT", "-", "5.6 %", f"{share:.1%}"),
        row("P5 top", "the same top with transformers' head", ">= 1.6x", "-", f"{gain:.2f}x"),
    ]


def p6(bench: Bench) -> list[Row]:
    """Bytes saved for backward, mean over an epoch's batches of each arm's own kind; weights resident."""
    ours = bench.ours()

    def stock(name: str) -> float:
        arm = bench.arm(name)
        assert isinstance(arm, Stock)

        def saved(batch: Batch, rows: int) -> int:
            few = _rows(batch, rows)
            return saved_bytes(lambda: arm.loss(few), arm.model)

        def whole(batch: Batch) -> float:
            """From 4 and 8 of its rows, since memory holds no more of F: the casts of the weights are saved once."""
            four, eight = saved(batch, 4), saved(batch, 8)
            return four + (eight - four) / 4 * (len(batch) - 4)

        return mean(whole(batch) for batch in arm.batches())

    own = (ours.model, *ours.model.strata.top_weights())
    mine = mean(saved_bytes(lambda batch=batch: ours.loss(batch), *own) for batch in ours.batches())
    a, f = stock("A"), stock("F")
    release_trunk(ours.model.strata, lambda: bench.setting.model("mlm"))  # as train/loop.py does
    weights = resident_bytes(ours.model, *ours.model.strata.top_weights()) / resident_bytes(bench.arm("A").model)
    return [
        row(
            "P6",
            "bytes saved for backward",
            ">= 10x below F, >= 7x below A",
            "17x, 12x",
            f"{f / mine:.1f}x below F, {a / mine:.1f}x below A",
        ),
        row(
            "P6 weights",
            "weights held while training from the cache",
            "<= 1/4 of A's",
            "-",
            f"{weights:.2f} of A's",
        ),
    ]


def _rows(batch: Batch, count: int) -> Batch:
    """The first ``count`` examples of a batch, with all its padding."""
    return replace(batch, **{name: value[:count] for name, value in vars(batch).items() if value is not None})


def p8(bench: Bench) -> list[Row]:
    """Frozen depth 22 over ten epochs."""
    deep = Ours(bench.setting, "bft-adapter@22", bench.folder)
    for _ in range(bench.rounds):
        deep.feed = deep.fresh_feed()
        bench.time("build@22", deep.epoch)
        for _ in range(3):
            bench.time("S@22", deep.epoch)
        if len(bench.times.get("B", [])) < bench.rounds:
            bench.time("B", bench.arm("B").epoch)
    ten = bench.best("build@22") + 9 * bench.best("S@22")
    return [
        row(
            "P8",
            "frozen depth 22, ten epochs with the build",
            ">= 9x B",
            "10.5x B",
            f"{10 * bench.best('B') / ten:.1f}x B",
        )
    ]


BENCHES = {"P1": p1, "P2": p2, "P3": p3, "P4": p4, "P5": p5, "P6": p6, "P8": p8}
NEEDS_EPOCHS = {"P1", "P2", "P3"}


def main() -> None:
    """Run the benches that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(BENCHES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=6, help="of an epoch of 10,240 examples, timed in each round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = args.only.split(",")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        data = random_data(lengths_like("sst2", 10_240), 50265)
        bench = Bench(Setting(ROBERTA_LARGE, data, timed=args.batches), args.rounds, Path(folder))
        if NEEDS_EPOCHS & set(names):
            measure_epochs(bench)
        for name in names:
            rows += BENCHES[name](bench)
            _write(rows, args)
    for line in rows:
        print(
            f"{line['id']:<11} {line['what']:<45} goal {line['goal']:<30} limit {line['limit']:<18} "
            f"measured {line['measured']}"
        )


def _write(rows: list[Row], args: argparse.Namespace) -> None:
    """The table so far; other rows of the same day and machine stay."""
    args.out.mkdir(exist_ok=True)
    path = args.out / f"{datetime.date.today()}-{platform.machine()}-{args.threads}-thread.json"
    measured = {line["id"] for line in rows}
    older = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps([*(line for line in older if line["id"] not in measured), *rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
