"""Speed and memory of stratatune and of common baselines, as ratios, in one process, sides taken in turn.

    python -m benchmarks.run [--only P1,P6] [--rounds 5] [--batches 6] [--lengths rte] [--threads 1]

Prints one table and writes ``benchmarks/results/<date>-<machine>.json``. ``studies/bench/arms.py`` describes the arms.
The shape is RoBERTa-large with random weights, depth 18, batch 32, SST-2-like lengths, bf16. Every figure is a ratio of
the minimum over the rounds; for P3, the sum over its trials. A limit is the ratio of operation counts, without any
overhead.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn

from benchmarks.counters import resident_bytes, saved_bytes
from benchmarks.jobs import Record, row, show_rows, write_rows
from benchmarks.sides import ROBERTA_LARGE, Bench, measure_epochs
from stratatune.data.batching import Batch
from stratatune.model.offload import offload_trunk
from stratatune.model.question import Question
from stratatune.objectives.words import PRETENDED_WORDS
from stratatune.studies.bench.arms import BenchSetting, Ours, Stock, lengths_like, random_data
from stratatune.training.forward import Forward


def p1(bench: Bench) -> list[Record]:
    """An epoch from the cache."""
    ratios = bench.against(bench.best("S"), 1)
    return [row("P1", "an epoch from the cache", ">= 12x A, >= 4.5x B", "13.9x A, 4.65x B", ratios)]


def p2(bench: Bench) -> list[Record]:
    """Ten epochs with the cache build; one epoch that builds while it trains."""
    ten, one = bench.best("build") + 9 * bench.best("S"), bench.best("build")
    what = ("ten epochs, cache built in the first", "one epoch that builds the cache")
    return [
        row("P2", what[0], ">= 3.6x B", "3.95x B", bench.against(ten, 10)),
        row("P2 one", what[1], ">= 1.5x B", "1.70x B", bench.against(one, 1)),
    ]


def p3(bench: Bench) -> list[Record]:
    """Sixteen trials of five epochs, all of them run: the first builds the cache, each learns from the start."""
    ours = bench.ours()
    ours.feed, untrained = ours.fresh_feed(), [parameter.detach().clone() for parameter in ours.trained]
    for _ in range(TRIALS):
        for parameter, value in zip(ours.trained, untrained, strict=True):
            parameter.data.copy_(value)
        ours.optimiser = torch.optim.AdamW(ours.trained, lr=1e-4, fused=True)
        for _ in range(5):
            bench.time("trials", ours.epoch)
    ratios = bench.against(sum(bench.times["trials"]), 5 * TRIALS)
    return [row("P3", "16 trials x 5 epochs on one cache", ">= 11x A, >= 4.2x B", "13.6x A, 4.54x B", ratios)]


def p4(bench: Bench) -> list[Record]:
    """Ours in bf16 against A in fp32."""
    bench.drop("F", "A", "B")  # in fp32 A alone takes as much as they took together
    for _ in range(bench.rounds):
        bench.time("A32", bench.arm("A32").epoch)
        bench.time("S", bench.ours().epoch)
    bench.drop("A32")
    return [
        row(
            "P4", "ours in bf16 against A in fp32", ">= 25x", "about 54x", f"{bench.best('A32') / bench.best('S'):.1f}x"
        )
    ]


def p5(bench: Bench) -> list[Record]:
    """The share of the MLM head, and the same top with transformers' head over every position."""
    ours = bench.ours()
    batches = list(ours.batches())
    backbone = ours.model.attached.backbone

    def head_only(words: torch.Tensor | None) -> float:
        hidden, mask = torch.randn(32, 1, 1024, requires_grad=True), torch.ones(32, 1, dtype=torch.bool)
        asked = Question(places=torch.zeros(32, 1, dtype=torch.long), rows=words)
        started = time.perf_counter()
        for _ in batches:
            with bench.setting.mixed():
                logits = backbone.logits(hidden, mask, asked)
            logits.float().logsumexp(-1).sum().backward()
        return time.perf_counter() - started

    whole = ours.forward
    restricted = replace(whole, objective=replace(whole.objective, whole_vocabulary=False))  # pyright: ignore
    words = torch.tensor(PRETENDED_WORDS, device=bench.setting.device)

    def epoch(forward: Forward) -> float:
        ours.forward = forward
        try:
            return ours.epoch()
        finally:
            ours.forward = whole

    def every_position() -> float:
        started = time.perf_counter()
        for batch in batches:
            hidden = ours.feed.hidden(batch)
            with bench.setting.mixed():
                calls = backbone.calls(hidden, batch.mask)
                for depth in range(whole.top.depth, 24):
                    for insertion in ours.model.attached.insertions_at(depth):
                        hidden, _ = insertion(hidden, batch.mask)
                    hidden = backbone.run_block(depth, hidden, calls[depth])
                logits = backbone.model.lm_head(hidden)
            labels = torch.full(batch.input_ids.shape, -100).scatter(
                1, batch.read[:, None], words[batch.labels][:, None]
            )
            nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten()).backward()
            torch.nn.utils.clip_grad_norm_(ours.trained, 1.0)
            ours.optimiser.step()
            ours.optimiser.zero_grad()
        return time.perf_counter() - started

    for _ in range(bench.rounds):
        bench.time("head", lambda: head_only(None))
        bench.time("head, label words", lambda: head_only(words))
        bench.time("S", lambda: epoch(whole))
        bench.time("S, label words", lambda: epoch(restricted))
        bench.time("transformers' head", every_position)
    share, gain = bench.best("head") / bench.best("S"), bench.best("transformers' head") / bench.best("S")
    of_words = bench.best("head, label words") / bench.best("S, label words")
    return [
        row("P5", "the MLM head's share of a step, loss over the label words", "<= 2 %", "0.3 %", f"{of_words:.1%}"),
        row("P5 vocabulary", "the same, loss over the whole vocabulary as in LPT", "-", "5.6 %", f"{share:.1%}"),
        row("P5 top", "the same top with transformers' head", ">= 1.6x", "-", f"{gain:.2f}x"),
    ]


def p6(bench: Bench) -> list[Record]:
    """Bytes saved for backward, mean over an epoch's batches of each arm's own kind; weights resident."""
    ours = bench.ours()

    def stock(name: str) -> float:
        arm = bench.arm(name)
        assert isinstance(arm, Stock)

        def saved(batch: Batch, rows: int) -> int:
            few = _rows(batch, rows)
            return saved_bytes(lambda: arm.loss(few), arm.model)

        def whole(batch: Batch) -> float:
            """Extrapolate from 4 and 8 of its rows, as memory holds no more of F: the weights' casts are saved once."""
            four, eight = saved(batch, 4), saved(batch, 8)
            return four + (eight - four) / 4 * (len(batch) - 4)

        return mean(whole(batch) for batch in arm.batches())

    own = (ours.model, *ours.model.attached.top_weights())
    mine = mean(saved_bytes(lambda batch=batch: ours.loss(batch), *own) for batch in ours.batches())
    a, f = stock("A"), stock("F")
    offload_trunk(ours.model.attached, lambda: bench.setting.model("mlm"))  # as training/loop.py does
    weights = resident_bytes(ours.model, *ours.model.attached.top_weights()) / resident_bytes(bench.arm("A").model)
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
    assert batch.groups is None
    tensors = {name: value[:count] for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return replace(batch, **tensors, targets={name: value[:count] for name, value in batch.targets.items()})


def p8(bench: Bench) -> list[Record]:
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


TRIALS = 16
BENCHES = {"P1": p1, "P2": p2, "P3": p3, "P4": p4, "P5": p5, "P6": p6, "P8": p8}
NEEDS_EPOCHS = {"P1", "P2", "P3"}


def main() -> None:
    """Run the requested benches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(BENCHES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=6, help="of an epoch of 10,240 examples, timed in each round")
    parser.add_argument(
        "--lengths", choices=("sst2", "rte"), default="sst2", help="what the examples' lengths are like"
    )
    parser.add_argument("--beside", default="ABF", help="arms of today; RTE's batches take F over 24 GB")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = args.only.split(",")
    rows: list[Record] = []
    with tempfile.TemporaryDirectory() as folder:
        data = random_data(lengths_like(args.lengths, 10_240), ROBERTA_LARGE["vocab_size"])
        bench = Bench(BenchSetting(ROBERTA_LARGE, data, timed=args.batches), args.rounds, Path(folder), args.beside)
        if NEEDS_EPOCHS & set(names):
            measure_epochs(bench)
        for name in names:
            rows += [_of(args.lengths, line) for line in BENCHES[name](bench)]
            write_rows(rows, args.threads, args.out)
    show_rows(rows)


def _of(lengths: str, line: Record) -> Record:
    """A row with a note of its lengths, where these are not SST-2's; goals and limits are SST-2's."""
    if lengths == "sst2":
        return line
    return {**line, "id": f"{line['id']} {lengths}", "what": f"{line['what']} ({lengths})", "goal": "-", "limit": "-"}


if __name__ == "__main__":
    main()
