"""The trunk cache itself: bytes and metric of int8, a step from a cold disk, cost and memory from 1e3 to 1e6 examples.

    python -m benchmarks.caching --only P7 --model MODEL --data GLUE_AND_TREC_FOLDER
    python -m benchmarks.caching --only "P7 cold"
    python -m benchmarks.caching --only P10

P7: TREC on real weights, five seeds a precision, all from one cache; bytes are those of the cache's folder, all its
files counted. P7 cold: RoBERTa-large's top at depth 18 on a cache of 10,240 examples, batches as in training, rounds in
turn: from RAM, and from a memory map whose pages have just left the page cache; the next batches are read ahead as in
training. P10: a model of width 16, so that a million examples fit; each size in a separate process, and of its memory
only what the system cannot take back (RssAnon), not the page cache; once as it is, and up to 1e5 examples once more
with oneDNN set to keep no kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from benchmarks.jobs import RESULTS, Record, row, show_rows, write_rows
from benchmarks.sides import PLAN, ROBERTA_LARGE
from stratatune.cache.feed import Feed
from stratatune.cache.folders import list_caches
from stratatune.cache.keys import CacheKey
from stratatune.cache.rows import estimate_bytes
from stratatune.cache.store import TrunkCache
from stratatune.cache.trunks.filling import fill
from stratatune.data.batching import plan_batches
from stratatune.model.split import Trunk
from stratatune.studies.bench.arms import BenchSetting, Ours, lengths_like, random_data

MODULE = "benchmarks.caching"
CPU = torch.device("cpu")
SMALL = {
    "model_type": "bert", "vocab_size": 1000, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 128,
}  # fmt: skip


NO_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""Keeps oneDNN from storing the kernels that it compiles for each shape."""
MOST_BARE = 100_000


# ---- P7: memory and score of int8 ----


def p7(args: argparse.Namespace) -> list[Record]:
    """Bytes a value, and the metric over seeds from one cache in the computation's precision and one in int8."""
    scores: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("bf16", "int8"):
            root = Path(folder) / dtype
            scores[dtype] = [_score(args, dtype, seed, root) for seed in range(args.seeds)]
        infos = list_caches(Path(folder) / "int8")
        values = sum(path.stat().st_size for info in infos for path in info.folder.glob("*.bin"))
        size = sum(info.bytes for info in infos) / values
    pairs = [100 * (wide - narrow) for wide, narrow in zip(scores["bf16"], scores["int8"], strict=True)]
    lost, spread = statistics.mean(pairs), statistics.stdev(pairs) if len(pairs) > 1 else 0.0
    means = {dtype: 100 * statistics.mean(found) for dtype, found in scores.items()}
    measured = (
        f"{lost:+.2f} points lost (bf16 {means['bf16']:.2f}, int8 {means['int8']:.2f}; sd of a pair {spread:.2f})"
    )
    return [
        row("P7", "bytes of a value in an int8 cache", "<= 1.02", "1", f"{size:.4f}", MODULE),
        row("P7 metric", f"TREC from int8, {args.seeds} seeds", "<= 0.1 point lost", "0", measured, MODULE),
    ]


def _score(args: argparse.Namespace, dtype: str, seed: int, root: Path) -> float:
    from stratatune.progress import Reporter
    from stratatune.training.config import validate
    from stratatune.training.run import train

    with tempfile.TemporaryDirectory() as out:
        config = validate(
            {
                **{"model": args.model, "task": "trec", "train": str(Path(args.data) / "sentence/TREC")},
                **{"eval_split": "test", "plan": "bft-adapter", "epochs": args.epochs, "lr": 1e-3, "seed": seed},
                **{"precision": "bf16", "cache": str(root), "cache_dtype": dtype, "out": str(Path(out) / "run")},
                **({"train_samples": args.samples} if args.samples else {}),
            }
        )
        result = train(config, reporter=Reporter(quiet=True))
    print(f"  {dtype}, seed {seed}: {result.best}, cache found: {result.cache_hit}", file=sys.stderr, flush=True)
    return result.best["accuracy"]


# ---- P7 cold: a step from a disk that has to be read ----


def p7_cold(args: argparse.Namespace) -> list[Record]:
    """Steps from RAM and from a memory map without its pages, in turn."""
    data = random_data(lengths_like("sst2", args.examples), 50265)
    arm = Ours(BenchSetting(ROBERTA_LARGE, data, timed=args.batches), PLAN, None)
    times: dict[str, list[float]] = {"ram": [], "cold": []}
    read = 0
    with tempfile.TemporaryDirectory(dir=args.disk) as folder:
        feeds = {place: _filled(arm, root) for place, root in (("ram", None), ("cold", Path(folder)))}
        for _ in range(args.rounds):
            for place, taken in times.items():
                if place == "cold":
                    feeds[place] = _without_pages(feeds[place], arm, Path(folder))
                arm.feed, before = feeds[place], _bytes_read()
                with arm.feed.prefetch(arm.setting.bucketed, CPU):
                    taken.append(arm.epoch())
                read += (_bytes_read() - before) * (place == "cold")
                print(f"  {place}: {taken[-1]:.2f} s", file=sys.stderr, flush=True)
    ratio = min(times["cold"]) / min(times["ram"])
    measured = f"{ratio:.3f}x ({read / args.rounds / 1e6:.0f} MB read from the disk a round)"
    return [row("P7 cold", "a step from a cold memory map, of one from RAM", "<= 1.05x", "1x", measured, MODULE)]


def _filled(arm: Ours, root: Path | None) -> Feed:
    """A feed from a complete cache of random rows: their values do not matter here, and the trunk need not run."""
    cache, random = _open(arm, root), torch.Generator().manual_seed(0)
    for part in np.array_split(np.arange(len(arm.setting.data)), 20):
        tokens = int(arm.setting.data.lengths[part].sum())
        cache.put(part, torch.randn(tokens, cache.width, generator=random))
    return Feed(Trunk(arm.model.attached), cache, one_position=False, autocast=torch.bfloat16)


def _open(arm: Ours, root: Path | None) -> TrunkCache:
    resolved = arm.model.attached.resolved
    key = CacheKey("w", "t", "", "d", 512, resolved.frozen_depth, "all", "bf16", ())
    return TrunkCache.open(root, key, arm.setting.data.lengths, resolved.shape.hidden, verify=False)


def _without_pages(feed: Feed, arm: Ours, root: Path) -> Feed:
    """The cache mapped again, after the system was asked to forget its pages."""
    assert feed.cache is not None
    feed.cache.close()
    for path in root.glob("*/*.bin"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return Feed(Trunk(arm.model.attached), _open(arm, root), one_position=False, autocast=torch.bfloat16)


def _bytes_read() -> int:
    """The bytes that this process has read from a disk so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


# ---- P10: from a thousand examples to a million ----


def p10(args: argparse.Namespace) -> list[Record]:
    """Seconds an example and memory at each size; memory once more without the libraries' own caches."""
    sizes = [int(float(size)) for size in args.sizes.split(",")]
    found = [_in_a_process(size, args) for size in sizes]
    bare = [_in_a_process(size, args, NO_KERNELS) for size in sizes if size <= MOST_BARE]
    large = [one for one in found if one["examples"] >= 10_000] or found
    build, cached = ([one[kind] / one["examples"] * 1e6 for one in large] for kind in ("build", "cached"))
    pace = f"build {min(build):.0f} to {max(build):.0f}, an epoch from it {min(cached):.0f} to {max(cached):.0f}"
    return [
        row("P10", f"microseconds an example, from {large[0]['examples']:.0e} on", "the same", "-", pace, MODULE),
        _grown("P10 memory", "anonymous memory", found),
        _grown("P10 memory bare", "the same, oneDNN keeping no kernels of shapes met", bare),
    ]


def _in_a_process(size: int, args: argparse.Namespace, environment: Mapping[str, str] = MappingProxyType({})) -> Record:
    """The result of :func:`measure` for a size."""
    command = [sys.executable, "-W", "ignore", "-m", MODULE, "--one", str(size), "--disk", args.disk or ""]
    surroundings = {**os.environ, **environment}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=surroundings)
    found = json.loads(shown.stdout.splitlines()[-1])
    print(f"  {found}", file=sys.stderr, flush=True)
    return found


def _grown(id: str, what: str, found: list[Record]) -> Record:
    """A row on memory growth, from the smallest to the largest size."""
    first, last = found[0], found[-1]
    grown = (last["memory"] - first["memory"]) / 1e6
    measured = (
        f"{grown:+.0f} MB ({last['text'] / 1e6:.0f} MB of text as numbers; a cache of {last['cache'] / 1e6:.0f} MB)"
    )
    span = f"{first['examples']:.0e} to {last['examples']:.0e} examples"
    return row(id, f"{what}, {span}", "flat but for the text", "-", measured, MODULE)


def measure(examples: int, disk: str) -> dict[str, Any]:
    """Build a cache of this many examples, then train an epoch from it; returns what both took."""
    torch.set_num_threads(1)
    data = random_data(lengths_like("sst2", examples), 1000)
    arm = Ours(BenchSetting(SMALL, data, batch_size=64, timed=1), "bft-adapter@1", None)
    with tempfile.TemporaryDirectory(dir=disk or None) as folder:
        arm.root = Path(folder)
        arm.feed = arm.fresh_feed()
        started = time.perf_counter()
        fill(arm.feed, data, 1, CPU, lambda _: None)
        build, started = time.perf_counter() - started, time.perf_counter()
        batches = plan_batches(data.lengths, batch_size=64, seed=0, epoch=0)
        with arm.feed.prefetch(batches, CPU):
            for batch in arm.setting.collated(batches, arm.kind):
                arm.step(batch)
        cached, memory = time.perf_counter() - started, _anonymous()
        size = estimate_bytes(data.lengths, SMALL["hidden_size"], "bf16", "all")  # pyright: ignore[reportArgumentType]
    text = data.ids.nbytes + data.offsets.nbytes + data.read.nbytes
    return {
        **{"examples": examples, "build": build, "cached": cached},
        **{"memory": memory, "text": text, "cache": size},
    }


def _anonymous() -> int:
    """The bytes of memory that this process alone holds and that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


BENCHES = {"P7": p7, "P7 cold": p7_cold, "P10": p10}


def main() -> None:
    """Run the requested benches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(BENCHES))
    parser.add_argument("--model", help="P7: a folder or a hub id")
    parser.add_argument("--data", help="P7: the folder that holds sentence/TREC")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--samples", type=int, help="P7: training rows, for a short try")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=10_240, help="P7 cold: in the cache")
    parser.add_argument("--batches", type=int, default=12, help="P7 cold: timed in each round")
    parser.add_argument("--sizes", default="1e3,1e4,1e5,1e6", help="P10")
    parser.add_argument("--disk", help="a folder on the disk to measure; the system's for temporary files by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        print(json.dumps(measure(args.one, args.disk)))
        return
    rows: list[Record] = []
    for name in args.only.split(","):
        if name == "P7" and not (args.model and args.data):
            parser.error("P7 needs --model and --data")
        rows += BENCHES[name](args)
        write_rows(rows, args.threads, args.out)
    show_rows(rows)


if __name__ == "__main__":
    main()
