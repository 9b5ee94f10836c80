"""Runs in separate processes, one JSON line each, so that a script can be stopped and started; rows of tables."""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune.app.doctor import processor
from stratatune.studies.grid.worker import PRELOADED
from stratatune.studies.statistics import Comparison, compare

if TYPE_CHECKING:
    import torch

Record = dict[str, Any]
RESULTS = Path(__file__).parent / "results"
SEARCH_SEED, SEEDS = 100, (0, 1, 2)
"""The seed of the runs that choose a rate, and the seeds of those in a table."""
_PEERS = ("peft", "transformers", "datasets", "accelerate")
"""What a run of a peer imports."""


def arguments(
    text: str | None,
    out: str,
    rows: int | None = None,
    arms: Sequence[str] = (),
    precision: bool = False,
    evaluated: int | None = None,
) -> argparse.Namespace:
    """The options that every script over real weights and data takes.

    ``rows``: the number of training rows, by default (0: as many as the task has). ``arms``: those that a run may leave
    out. ``precision``: whether a run may be in fp32 or in bf16. ``evaluated``: the number of rows to score, by default.
    """
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="the folder with glue/ and sentence/")
    parser.add_argument("--out", type=Path, default=RESULTS / out)
    parser.add_argument("--tasks", help="some of the tasks, by commas")
    parser.add_argument("--seeds", help="some of the seeds, by commas")
    if rows is not None:
        parser.add_argument("--rows", type=int, default=rows, help="training rows, drawn by the seed of the run")
    if evaluated is not None:
        parser.add_argument("--evaluated", type=int, default=evaluated, help="rows to score, the first of the file")
    if arms:
        parser.add_argument("--arms", type=some_of(arms), default=arms, help=f"some, by commas: {', '.join(arms)}")
    if precision:
        parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of all arms")
    run_options(parser)
    return parser.parse_args()


def run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`ensure` reads."""
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at a time: with more than one, scores and memory count, not seconds"
    )
    parser.add_argument("--one", help="internal: run this one, as JSON, and print its record")


def some_of(arms: Sequence[str]) -> Callable[[str], list[str]]:
    """The type of an option that takes some of ``arms``, by commas."""

    def some(text: str) -> list[str]:
        found = [one.strip() for one in text.split(",")]
        if odd := [one for one in found if one not in arms]:
            raise argparse.ArgumentTypeError(f"{odd[0]!r} is no arm; there are: {', '.join(arms)}")
        return found

    return some


def read(path: Path) -> list[Record]:
    """Read the finished jobs."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ensure(module: str, job: Record, done: list[Record], args: argparse.Namespace) -> None:
    """Run ``job`` by ``python -m module --one JOB``, unless it is done."""
    if _is_done(job, done):
        return
    command = [sys.executable, "-W", "ignore", "-m", module, "--model", args.model, "--data", args.data]
    command += ["--out", str(args.out), "--one", json.dumps(job)]
    started, busy = time.perf_counter(), _processor_seconds()
    shown = subprocess.run(
        command, capture_output=True, check=False, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    share = (_processor_seconds() - busy) / (time.perf_counter() - started)
    if shown.returncode:
        print(f"failed: {job}\n{shown.stderr[-2000:]}", file=sys.stderr, flush=True)
        return
    record = json.loads(shown.stdout.strip().splitlines()[-1])
    if device().type == "cpu":  # waiting for a GPU is part of a run's time
        record["share"] = round(min(1.0, share), 3)
    _keep(record, done, args)


def ensure_all(module: str, jobs: Sequence[Record], done: list[Record], args: argparse.Namespace) -> None:
    """Run those of ``jobs`` that are not done, one after the other, or ``args.jobs`` at a time.

    Several at a time are forks of a process that has everything imported; their records say how many there were.
    """
    missing = [job for job in jobs if not _is_done(job, done)]
    if args.jobs == 1:
        for job in missing:
            ensure(module, job, done, args)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module, *PRELOADED, *_PEERS])
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:

        def run(number: int) -> None:
            out = Path(folder) / f"{number}.json"
            fork = context.Process(target=_run, args=(module, missing[number], args.model, args.data, out))
            fork.start()
            fork.join()
            if out.exists():
                _keep({**json.loads(out.read_text()), "jobs": args.jobs}, done, args)
            else:  # it printed why; the others go on
                print(f"failed: {missing[number]}", file=sys.stderr, flush=True)

        list(pool.map(run, range(len(missing))))


def _run(module: str, job: Record, model: str, data: str, out: Path) -> None:
    out.write_text(json.dumps(importlib.import_module(module).run_one(job, model, data)))


def _is_done(job: Record, done: Iterable[Record]) -> bool:
    return any(job.items() <= record.items() for record in done)


def _keep(record: Record, done: list[Record], args: argparse.Namespace) -> None:
    record.setdefault("machine", machine())
    done.append(record)
    with args.out.open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(record, file=sys.stderr, flush=True)


def _processor_seconds() -> float:
    """The processor seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


Rates = Mapping[str, Sequence[float]]
Best = Callable[[Iterable[float]], float]


def run_table(
    module: str, job: Record, rates: Rates, done: list[Record], args: argparse.Namespace, best: Best = max
) -> None:
    """Run each arm at each of its ``rates`` with :data:`SEARCH_SEED`, then at the best of them with every other seed.

    Args:
        module: the script's; it runs one job by ``--one``.
        job: the settings that all runs share, such as the task.
        rates: the rates to try, by arm. An arm with one rate is not searched.
        done: the finished runs; it grows.
        args: the script's arguments.
        best: ``max``, or ``min`` where a smaller score is better.
    """
    searches = [(arm, rate) for arm, tried in rates.items() for rate in tried if len(tried) > 1]
    jobs = [{**job, "arm": arm, "lr": rate, "seed": SEARCH_SEED} for arm, rate in searches]
    ensure_all(module, jobs, done, args)
    jobs = []
    for seed in [int(seed) for seed in args.seeds.split(",")] if args.seeds else SEEDS:
        for arm, tried in rates.items():
            wanted = {**job, "arm": arm, "seed": SEARCH_SEED}
            searched = [run for run in done if wanted.items() <= run.items() and run["lr"] in tried]
            if len(tried) == 1 or searched:  # else every run of the search failed, and said why
                rate = best_rate(searched, best) if searched else tried[0]
                jobs.append({**job, "arm": arm, "lr": rate, "seed": seed})
    ensure_all(module, jobs, done, args)


def best_rate(runs: list[Record], best: Best = max) -> float:
    """The rate of the run with the best score."""
    found = best(run["score"] for run in runs)
    return next(run["lr"] for run in runs if run["score"] == found)


def timed(trainer: Any) -> list[float]:
    """Record the seconds of each evaluation of a stock Trainer as it runs."""
    spent, plain = list[float](), trainer.evaluate

    def evaluate(*args: Any, **kwargs: Any) -> dict[str, float]:
        started = time.perf_counter()
        found = plain(*args, **kwargs)
        spent.append(time.perf_counter() - started)
        return found

    trainer.evaluate = evaluate
    return spent


def device() -> torch.device:
    """Where a run computes: on the GPU where there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def difference(found: Comparison | None, digits: int = 1) -> str:
    """The mean difference, with Student's 95 % interval."""
    if found is None:
        return "-"
    less = found.difference
    shown = "" if less.low is None else f" [{less.low:.{digits}f}, {less.high:.{digits}f}]"
    return f"{less.mean:+.{digits}f}{shown}"


BY_DEPTH = (
    "`By depth` is the speed-up that depth alone allows: the operations of LoRA on every block divided by those of the",
    "plan, for the same number of epochs, including the plan's trunk pass and excluding padding. Anything above it",
    "comes from batches of similar length, and from heads that compute only the positions that are read. With so few",
    "epochs, depth alone cannot reach the goal, a quarter of the peer's seconds.",
)
"""What the column of this name means, for a page."""
_SHAPES: dict[str, tuple[str, int]] = {
    "minilm-mlm": ("bert-base-uncased", 6),
    "mpnet-base": ("mpnet-base", 12),
    "gemma3-270m": ("gemma-3-270m", 18),
}
"""A built-in shape and a number of blocks that have the proportions of a model."""
_TOKENS = 32


def heads(*further: str) -> tuple[str, str]:
    """The two lines over those of :func:`beside`; ``further`` columns follow the score."""
    names = ("arm", "trained", "rate", "score", *further, "less peft", "seconds", "against peft", "by depth", "peak MB")
    return f"| {' | '.join(names)} |", "|---" * len(names) + "|"


def beside(
    arm: str,
    own: list[Record],
    peer: list[Record],
    further: Sequence[str] = (),
    scale: float = 100,
    digits: int = 1,
) -> str:
    """A line for the runs of an arm: its score, less the peer's over the same seeds, and the least seconds.

    Seconds are the processor's, on a GPU those of the clock; there are none where all runs had others beside them.

    ``further``: other scores in the records. All scores are shown ``scale`` times as large (100: in points).
    """
    seconds, theirs_took = (min(map(_worked, alone(runs)), default=None) for runs in (own, peer))
    mine, theirs = ({(run["seed"],): scale * run["score"] for run in runs} for runs in (own, peer))
    is_peer = own is peer or own == peer
    cells = (
        arm,
        f"{own[0]['trainable']:,}",
        f"{own[0]['lr']:g}",
        *(_spread([scale * run[name] for run in own], digits) for name in ("score", *further)),
        "" if is_peer or not peer else difference(compare(mine, theirs), digits),
        f"{seconds:.0f}" if seconds else "-",
        f"{theirs_took / seconds:.1f}x" if seconds and theirs_took else "-",
        by_depth(own[0]["base"], own[0]["arm"], own[0]["epochs"]),
        f"{min(run['memory'] for run in own) / 1e6:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def by_depth(base: str, arm: str, epochs: int) -> str:
    """The operations of LoRA on every block over those of a plan; ``-`` for a peer, or another model."""
    from stratatune.costs.cost import cost
    from stratatune.errors import PlanError
    from stratatune.plan import shape_of

    if base not in _SHAPES:
        return "-"
    name, blocks = _SHAPES[base]
    try:
        found = cost(arm, replace(shape_of(name), blocks=blocks), tokens=_TOKENS, objective="classification")
    except PlanError:  # a peer, or more than a plan
        return "-"
    own = found.flops_per_token + (epochs - 1) * found.flops_per_token_cached
    return f"{epochs * found.flops_per_token_lora / own:.1f}x"


def alone(runs: Iterable[Record]) -> list[Record]:
    """The runs whose seconds count: those that had the machine for themselves."""
    return [run for run in runs if run.get("jobs", 1) == 1]


def seeds_of(runs: Iterable[Record]) -> str:
    """The seeds of the runs, as a page names them."""
    seeds = sorted({run["seed"] for run in runs})
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _worked(run: Record) -> float:
    """An arm's seconds, less the share in which its one thread had no processor because the machine did other work."""
    return run["seconds"] * run.get("share", 1.0)


def _spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def row(id: str, what: str, goal: str, limit: str, measured: str, module: str = "benchmarks.run") -> Record:
    """One line of the table, with the running command and machine."""
    found = {"id": id, "what": what, "goal": goal, "limit": limit, "measured": measured}
    return {**found, "machine": machine(), "command": " ".join(("python -m", module, *sys.argv[1:]))}


def machine() -> str:
    """The processor with its bf16 instructions, and the GPU where there is one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    return ", ".join((processor(), *(unit for unit in ("amx_bf16", "avx512_bf16") if unit in flags)))


def write_rows(rows: list[Record], threads: int, out: Path = RESULTS) -> None:
    """Write rows into today's table of this machine, whose other rows stay."""
    out.mkdir(exist_ok=True)
    path = out / f"{datetime.date.today()}-{platform.machine()}-{threads}-thread.json"
    measured = {line["id"] for line in rows}
    older = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps([*(line for line in older if line["id"] not in measured), *rows], indent=2) + "\n")


def show_rows(rows: list[Record]) -> None:
    """Print the table for people."""
    for line in rows:
        print(
            f"{line['id']:<11} {line['what']:<45} goal {line['goal']:<30} limit {line['limit']:<18} "
            f"measured {line['measured']}"
        )
