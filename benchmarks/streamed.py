"""Models larger than memory: a trunk streamed from its checkpoint under a hard limit on memory.

    python -m benchmarks.streamed [--size qwen3-8b] [--tokens 20000] [--limit 4GB] [--build-limit 2.5GB]
        [--checkpoint FOLDER] [--parts build,train,peft] [--peft-limit 20GB] [--records FILE]
        [--plan "1/3: lora"] [--batch 64]
    python -m benchmarks.streamed --ratios MODEL,MODEL

A checkpoint of random bf16 weights is written shard by shard, unless ``--checkpoint`` holds it from an earlier run.
Then, each in a separate process: the trunk cache is built; a LoRA of the last eighth is trained from it for two
epochs, evaluated and saved; stock peft trains a LoRA of every block for one step of the same batch. ``--parts``
takes some of these, and ``--records`` keeps their results, so that the rows can be made of parts that ran one by one.
Another ``--plan`` may have a top that does not fit into ``--limit``: it is streamed too.

The first two run in a memory cgroup of their limit, or under ``RLIMIT_DATA`` (the build) and ``RLIMIT_AS`` where no
cgroup can be made: the row says which. peft gets a cgroup too, so that it cannot take the machine down; where the
machine lacks its memory, peft's bytes are those of its weights, the least that it needs. The figure is the most that a
process held resident: transformers leaves bf16 weights mapped, so anonymous memory would leave out weights that every
step reads. The rate of the build is compared with that of the matrix products of its own blocks, measured in the same
process before and after it, the mean of both. ``--ratios``: seconds of a streamed build over those of a resident one,
on checkpoints that fit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.checkpoints import SIZES, WORDS, write_checkpoint
from benchmarks.jobs import Record, row, show_rows, write_rows
from benchmarks.limits import run_limited
from stratatune.training.config import parse_bytes
from stratatune.units import readable_size

TOKENS = 64
"""The tokens of a text: all texts have this length, so that nothing is padding."""
_SLACK = 256 << 20  # what Python's allocator keeps, and the bytes that a product takes for itself
PLAN, EPOCHS, BATCH, ROUNDS = "7/8: lora", 2, 16, 3
MODULE = "benchmarks.streamed"


def main() -> None:
    """Write, run and print the rows."""
    args = _arguments()
    if args.child:
        print(json.dumps(_child(json.loads(args.child))))
        return
    rows = [_ratio(Path(model)) for model in args.ratios.split(",")] if args.ratios else _whole(args)
    show_rows(rows)
    write_rows(rows, int(os.environ.get("OMP_NUM_THREADS", "1")))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="qwen3-8b")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--limit", default="4GB")
    parser.add_argument("--build-limit", default="2.5GB")
    parser.add_argument("--peft-limit", default="20GB")
    parser.add_argument("--plan", default=PLAN)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--checkpoint", type=Path, help="where the checkpoint is, or is written and kept")
    parser.add_argument("--parts", default="build,train,peft", help="some of them, by commas")
    parser.add_argument("--records", type=Path, help="JSON of the parts that ran, read and written")
    parser.add_argument("--ratios", help="folders of models, by commas")
    parser.add_argument("--child", help="internal: run this one, as JSON, and print its record")
    return parser.parse_args()


def _whole(args: argparse.Namespace) -> list[Record]:
    with tempfile.TemporaryDirectory() as folder:
        model = (args.checkpoint or Path(folder) / "model").resolve()
        if not (model / "tokenizer.json").exists():  # the file written last
            started = time.perf_counter()
            write_checkpoint(args.size, model)
            _say(f"weights written in {time.perf_counter() - started:.0f} s")
        weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        write_texts(Path(folder), args.tokens)
        limits = {"build": args.build_limit, "train": args.limit, "peft": args.peft_limit}
        what = f"{args.size} ({readable_size(weights)}), {args.plan}, {args.tokens:,} tokens"
        found: dict[str, Record] = {}
        if args.records and args.records.exists():
            found = json.loads(args.records.read_text())
        for part in filter(None, args.parts.split(",")):
            if part == "peft" and weights > 0.9 * psutil.virtual_memory().available:
                found[part] = {"peak": weights, "weights_alone": True}
            else:
                limit = parse_bytes(limits[part])
                own = {"plan": args.plan, "batch_size": args.batch}
                found[part] = run({"what": part, "folder": folder, "model": str(model), "limit": limit, "own": own})
            if args.records:
                args.records.write_text(json.dumps(found, indent=2) + "\n")
        return rows_of(what, found)


def rows_of(what: str, found: dict[str, Record]) -> list[Record]:
    """The page's text about the parts that ran."""
    ours = {part: _held(found[part]) for part in ("build", "train") if part in found}
    said = [f"{part} {readable_size(held)} of {_limited(found[part])}" for part, held in ours.items()]
    if "peft" in found:
        theirs = _held(found["peft"])
        alone = " of weights alone" if "weights_alone" in found["peft"] else ", one step"
        said.append(f"peft LoRA {readable_size(theirs)}{alone}")
        said += [f"{theirs / max(ours.values()):.1f}x"] if ours else []
    rows = [row("H memory", what, ">= 4x less", "-", "; ".join(said), MODULE)]
    if "build" in found:
        build = found["build"]
        speed = f"{build['products'] / build['seconds']:.0%} of its products' rate "
        speed += f"({build['flops'] / build['seconds'] / 1e9:,.0f} GFLOP/s), {build['seconds']:,.0f} s"
        rows.append(row("H rate", f"{what}: build", ">= 85 %", "100 %", speed, MODULE))
    if "train" in found:
        train, seconds = found["train"], found["train"]["seconds"]
        measured = f"two epochs {seconds['train']:,.0f} s, evaluation {seconds['eval']:,.0f} s, "
        measured += f"artefact {readable_size(train['artefact'])}"
        rows.append(row("H training", what, "-", "-", measured, MODULE))
    return rows


def _held(record: Record) -> int:
    """The most bytes that were resident at once, mapped weights included."""
    return record["peak"]


def _limited(record: Record) -> str:
    own = f", {readable_size(record['anonymous'])} of it anonymous" if "anonymous" in record else ""
    return f"{readable_size(record['limit'])} by {record['limited_by']}{own}"


def write_texts(folder: Path, tokens: int, evaluated: int | None = None) -> None:
    """Write texts of :data:`TOKENS` tokens in two classes: ``tokens`` to train on, and to evaluate ``evaluated`` texts.

    By default those are a tenth.
    """
    import random

    chance = random.Random(0)
    for name, count in (("train", tokens // TOKENS), ("eval", evaluated or max(4, tokens // TOKENS // 10))):
        lines = ["text,label"]
        for number in range(count):
            words = [f"w{chance.randrange(WORDS)}" for _ in range(TOKENS - 2)]
            lines.append(f"{' '.join([f'w{number % 2}', *words])},{('no', 'yes')[number % 2]}")
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


def run(job: Record) -> Record:
    """Run a job in a separate process, within ``job["limit"]`` bytes."""
    _say(f"{job['what']} ...")
    command = [sys.executable, "-W", "ignore", "-m", MODULE, "--child", json.dumps(job)]
    # One arena of the allocator, so that mapped memory is memory in use.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    record = run_limited(command, job["limit"], environment, data=job["what"] == "build")
    _say(json.dumps(record))
    return {**record, "limit": job["limit"]}


def _child(job: Record) -> Record:
    made: Any = {"build": _build, "train": _train, "peft": _peft}[job["what"]]
    return {**most_held(), **made(Path(job["folder"]), Path(job["model"]), job["limit"], **job["own"])}


def settings(folder: Path, model: Path, limit: int, **more: Any) -> Any:
    """The settings of a run over the texts in ``folder`` that keeps within ``limit`` bytes."""
    from stratatune.training.config import validate

    own = {"model": str(model), "plan": PLAN, "objective": "classification", "precision": "bf16"}
    data = {"train": str(folder / "train.csv"), "eval": str(folder / "eval.csv"), "max_length": TOKENS}
    run = {"epochs": EPOCHS, "batch_size": BATCH, "cache": str(folder / "cache"), "out": str(folder / "run")}
    if limit:
        more["memory_limit"] = f"{limit - _SLACK}B"
    return validate({**own, **data, **run, "trunk": "streamed", **more})


def _build(folder: Path, model: Path, limit: int, **own: Any) -> Record:
    from stratatune.progress import Reporter
    from stratatune.training.build import build_cache

    before = _products(model)
    built = build_cache(settings(folder, model, limit, **own), Reporter(quiet=True))
    most, seconds = most_held(), sum(one["trunk_seconds"] for one in built["caches"])
    tokens = TOKENS * sum(one["computed"] for one in built["caches"])
    after, work = _products(model), tokens * built["depth"]
    products, flops = (work * (one + other) / 2 for one, other in zip(before, after, strict=True))
    return {"seconds": seconds, "products": products, "flops": flops, "whole": built["seconds"], **most}


def _products(model: Path) -> tuple[float, float]:
    """The seconds and FLOPs of the matrix products of a block for each token, in bf16, one by one."""
    import torch

    from stratatune.plan import shape_of

    seconds, weights, rows = 0.0, 0, 32 * TOKENS
    for linear in shape_of(str(model)).linears.values():
        given, weight = (torch.randn(n, linear.inputs).bfloat16() for n in (rows, linear.outputs))
        best = float("inf")
        for _ in range(ROUNDS):
            started = time.perf_counter()
            torch.nn.functional.linear(given, weight)
            best = min(best, time.perf_counter() - started)
        seconds, weights = seconds + best, weights + linear.weights
    return seconds / rows, 2.0 * weights


def _train(folder: Path, model: Path, limit: int, **own: Any) -> Record:
    from stratatune.progress import Reporter
    from stratatune.training.run import train

    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        status = psutil.Process().memory_info()  # mapped memory that is not resident counts too
        limit -= status.vms - status.rss
    done = train(settings(folder, model, limit, **own), reporter=Reporter(quiet=True))
    saved = sum(file.stat().st_size for file in (folder / "run" / "adapter").iterdir())
    return {
        **most_held(),
        "seconds": done.seconds,
        "best": done.best,
        "hit": done.cache_hit,
        "artefact": saved,
        "notices": done.notices,
    }


def _peft(folder: Path, model: Path, limit: int, *, batch_size: int, **other: Any) -> Record:
    """Stock LoRA on every block, the weights in bf16 as stored: one step."""
    # Where the machine runs short of memory after all, it is this process that goes.
    Path("/proc/self/oom_score_adj").write_text("1000")
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    loaded = AutoModelForSequenceClassification.from_pretrained(model, dtype="auto", num_labels=2)
    targets = ["q_proj", "v_proj"]
    tuned: Any = get_peft_model(loaded, LoraConfig(r=8, target_modules=targets, task_type="SEQ_CLS"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    optimiser = torch.optim.AdamW([one for one in tuned.parameters() if one.requires_grad], lr=1e-4)
    lines = (folder / "train.csv").read_text().splitlines()[1:]
    started = time.perf_counter()
    texts, labels = zip(*(line.split(",") for line in lines[:batch_size]), strict=True)
    given = tokenizer(list(texts), return_tensors="pt", padding=True)
    target = torch.tensor([int(label == "yes") for label in labels])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tuned(**given, labels=target).loss.backward()
    optimiser.step()
    return {**most_held(), "seconds": time.perf_counter() - started}


def most_held() -> Record:
    """The most bytes that this process has mapped, and the most that were resident."""
    status = Path("/proc/self/status").read_text()
    found = {name: re.search(rf"{name}:\s+(\d+) kB", status) for name in ("VmPeak", "VmHWM")}
    mapped, peak = (1024 * int(one[1]) if one else 0 for one in found.values())
    return {"mapped": mapped, "peak": peak}


def _ratio(model: Path) -> Record:
    """The seconds of a streamed build over those of a resident one, the least of some rounds in turn."""
    from stratatune.progress import Reporter
    from stratatune.training.build import build_cache

    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_texts(place, 8192)
        for number in range(ROUNDS):
            for trunk in ("resident", "streamed"):
                more = {"trunk": trunk, "cache": str(place / f"{trunk}{number}")}
                built = build_cache(settings(place, model, 0, **more), Reporter(quiet=True))
                seconds = sum(one["trunk_seconds"] for one in built["caches"])
                best[trunk] = min(best.get(trunk, seconds), seconds)
    measured = f"{best['streamed'] / best['resident']:.2f}x ({best['streamed']:.1f} s, {best['resident']:.1f} s)"
    return row(f"H {model.name}", "streamed build over a resident one", "<= 1.15x", "1x", measured, MODULE)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
