"""Many tasks on one trunk and as many merged models: throughput, memory, and ten thousand requests.

    python -m benchmarks.serve FOLDER prepare --model MODEL     # trains the tasks, exports each as a merged model
    python -m benchmarks.serve FOLDER throughput                # both sides in turn, in one process
    python -m benchmarks.serve FOLDER memory                    # each side in a process of its own
    python -m benchmarks.serve FOLDER requests                  # `stratatune serve`, asked by another process
    python -m benchmarks.serve FOLDER page                      # docs/results/serve.md

The tasks are classifiers of the sample requests with `9: lora`, one for each seed. Throughput: the same texts, each
sent to every task, in batches of 64 sorted by length; a side's turn is over when all answers are there, and the sides
take turns, so that a busy machine slows both. The merged models are stock transformers with its fastest attention,
their texts tokenised once for all of them. Nothing is remembered between batches. Then the same for one task alone.
Memory: the resident bytes of the process (the proportional set size that Linux counts, so mapped weights too) when
every task has answered once and every weight has been touched, less its size with all libraries imported. The
merged models are in one process, which shares the libraries and the tokenizer among them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from importlib.resources import files
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.jobs import RESULTS, machine

BATCH, CLOSE = 64, 1e-4
PAGE = Path(__file__).parents[1] / "docs" / "results" / "serve.md"


def texts(count: int) -> list[str]:
    """Sample requests, half of them joined by twos, so that lengths differ; no two are equal."""
    with files("stratatune.samples.requests").joinpath("train.csv").open(encoding="utf-8") as file:
        found = [row["text"] for row in csv.DictReader(file)]
    chance = random.Random(0)
    pairs = [" ".join(chance.sample(found, 2)) for _ in found]
    every = list(dict.fromkeys([*found, *pairs]))
    return chance.sample(every, count)


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    """Make the runs and their merged exports."""
    import stratatune as st
    from stratatune.progress import Reporter

    data = files("stratatune.samples.requests").joinpath("train.csv")
    results = st.train_many(
        model=args.model,
        plans=[f"{args.depth}: lora"],
        seeds=range(args.tasks),
        train=str(data),
        objective="classification",
        train_samples=args.samples,
        epochs=1,
        lr=1e-3,
        cache="ram",
        out=str(args.folder / "runs"),
        reporter=Reporter(quiet=True),
    )
    runs = [str(result.out) for result in results]
    for number, run in enumerate(runs):
        st.export(st.load(run), args.folder / "merged" / f"{number}", to="merged")
    (args.folder / "runs.json").write_text(json.dumps(runs))
    return {"model": Path(args.model).name, "tasks": args.tasks, "depth": args.depth, "machine": machine()}


# --- both sides ----------------------------------------------------------------------------------------------------


class Shared:
    """Our side: the tasks of a server, without HTTP."""

    def __init__(self, runs: list[str]) -> None:
        from stratatune.serving.table import TaskTable

        self.table = TaskTable(0)
        for number, run in enumerate(runs):
            self.table.add(f"task{number}", run)
        self.tasks = list(self.table.tasks.values())

    def __call__(self, asked: list[str]) -> list[list[list[float]]]:
        """The probabilities of each task for each text."""
        from stratatune.serving.compute import Piece, answer

        found = []
        for start in range(0, len(asked), BATCH):
            piece = Piece(asked[start : start + BATCH], self.tasks)
            answer([piece], self.table.trunks)
            for trunk in self.table.trunks.values():
                trunk.trim()
            if piece.error is not None:
                raise piece.error
            found.append(piece.rows)
        return [[chances(row) for rows in found for row in rows[task.name]] for task in self.tasks]


class Merged:
    """The other side: as many plain transformers models, each complete."""

    def __init__(self, folders: list[Path]) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folders[0])
        self.models = [AutoModelForSequenceClassification.from_pretrained(folder).eval() for folder in folders]

    def __call__(self, asked: list[str]) -> list[list[list[float]]]:
        """The probabilities of each model for each text."""
        import torch

        batches = []
        for start in range(0, len(asked), BATCH):
            part = asked[start : start + BATCH]
            batches.append(self.tokenizer(part, padding=True, truncation=True, max_length=256, return_tensors="pt"))
        with torch.inference_mode():
            return [
                [row for batch in batches for row in model(**batch).logits.softmax(1).tolist()] for model in self.models
            ]


def chances(row: dict[str, Any]) -> list[float]:
    """The probabilities of an answer."""
    return [value for name, value in row.items() if name.startswith("p_")]


def sides(args: argparse.Namespace) -> tuple[list[str], list[Path]]:
    """The runs and the folders of the merged models."""
    runs = json.loads((args.folder / "runs.json").read_text())
    return runs, [args.folder / "merged" / f"{number}" for number in range(len(runs))]


# --- what is measured ----------------------------------------------------------------------------------------------


def throughput(args: argparse.Namespace) -> dict[str, Any]:
    """The seconds of each side for the same texts, in turns, and whether their answers are equal."""
    from stratatune.training.predict import Predictor

    runs, folders = sides(args)
    ours, theirs = Shared(runs), Merged(folders)
    every = texts(args.texts * args.rounds + 64)
    first = every[:16]
    answers = ours(first)
    alone = [_chances(Predictor(run), first) for run in runs[:3]]
    result: dict[str, Any] = {"texts": args.texts, "rounds": args.rounds}
    result["from_predict"], result["from_merged"] = apart(answers[:3], alone), apart(answers, theirs(first))
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range(args.rounds):
        asked = sorted(every[64 + number * args.texts : 64 + (number + 1) * args.texts], key=len)
        for name, side in (("ours", ours), ("theirs", theirs)) if number % 2 else (("theirs", theirs), ("ours", ours)):
            started = time.perf_counter()
            side(asked)
            seconds[name].append(time.perf_counter() - started)
        print({name: f"{values[-1]:.1f} s" for name, values in seconds.items()}, file=sys.stderr, flush=True)
    result["ratio_alone"] = alone_ratio(ours, theirs, every[: args.texts], args.rounds)
    ratios = [them / us for us, them in zip(seconds["ours"], seconds["theirs"], strict=True)]
    return {**result, "seconds": seconds, "ratio": statistics.median(ratios), "ratios": ratios}


def alone_ratio(ours: Shared, theirs: Merged, asked: list[str], rounds: int) -> float:
    """The speed of one task of ours as a multiple of one merged model's: the median over turns."""
    tasks, models, found = ours.tasks, theirs.models, []
    ours.tasks, theirs.models = tasks[:1], models[:1]
    for _ in range(rounds):
        seconds = []
        for side in (ours, theirs):
            started = time.perf_counter()
            side(sorted(asked, key=len))
            seconds.append(time.perf_counter() - started)
        found.append(seconds[1] / seconds[0])
    ours.tasks, theirs.models = tasks, models
    return statistics.median(found)


def apart(one: list[Any], other: list[Any]) -> float:
    """The largest difference of two lists of lists of probabilities."""
    return max(
        abs(a - b)
        for rows, others in zip(one, other, strict=True)
        for row, beside in zip(rows, others, strict=True)
        for a, b in zip(row, beside, strict=True)
    )


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """The memory of each side, in a separate process."""
    found = {}
    for side in ("ours", "theirs"):
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.serve", str(args.folder), f"holding-{side}"]
        found[side] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
        print({side: found[side]}, file=sys.stderr, flush=True)
    return {**found, "ratio": found["theirs"]["bytes"] / found["ours"]["bytes"]}


def holding(args: argparse.Namespace, side: str) -> dict[str, Any]:
    """The resident bytes that a side adds to this process, once every task has answered."""
    import transformers  # noqa: F401

    import stratatune.serving.api
    import stratatune.serving.compute
    import stratatune.training.predict  # noqa: F401
    from stratatune.serving.weights import return_memory

    runs, folders = sides(args)
    libraries = resident()
    made: Shared | Merged = Shared(runs) if side == "ours" else Merged(folders)
    made(texts(16))
    models = [task.predictor.model for task in made.tasks] if isinstance(made, Shared) else made.models
    for model in models:
        for parameter in model.parameters():
            parameter.sum()  # a mapped weight is in memory once it has been read
    return_memory()
    return {"bytes": resident() - libraries, "libraries": libraries}


def resident() -> int:
    """The proportional set size of this process in bytes: private pages, mapped files, and its part of shared ones."""
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not count proportional set sizes")


# --- requests ------------------------------------------------------------------------------------------------------


def requests(args: argparse.Namespace) -> dict[str, Any]:
    """Run a server in a separate process, and send it requests from several threads of this one."""
    import psutil

    runs, _ = sides(args)
    every = texts(60)
    expected = json.loads(_expected(args.folder, runs, every).read_text())
    named = [f"task{number}={run}" for number, run in enumerate(runs)]
    command = [sys.executable, "-W", "ignore", "-m", "stratatune", "serve", *named, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            port = _port(server.stderr)
            threading.Thread(target=lambda: list(server.stderr or ()), daemon=True).start()
            own = psutil.Process(server.pid)
            client = Client(port, every, expected, len(runs))
            client.run(args.requests // 10, args.clients)
            sizes, seconds = [own.memory_full_info().uss], 0.0
            for _ in range(10):
                seconds += client.run(args.requests // 10, args.clients)
                sizes.append(own.memory_full_info().uss)
                print(client.counts, f"{sizes[-1] / 1e6:.1f} MB", file=sys.stderr, flush=True)
        finally:
            server.terminate()
        code = server.wait(60)
    record = json.loads((Path(runs[0]) / "adapter" / "adapter.json").read_text())
    asked = {"model": Path(record["base"]["name"]).name, "tasks": len(runs), **client.counts}
    return {**asked, "seconds": seconds, "memory": sizes, "exit_code": code, "clients": args.clients}


def _chances(predictor: Any, asked: list[str]) -> list[list[float]]:
    """The probabilities of a classifier for the texts."""
    found = predictor.predict(asked).probabilities
    assert found is not None
    return [list(map(float, row)) for row in found]


def _expected(folder: Path, runs: list[str], every: list[str]) -> Path:
    """The answers of ``predict`` for the texts, once for all."""
    path = folder / "expected.json"
    if not path.exists():
        from stratatune.training.predict import Predictor

        said = [_chances(Predictor(run), every) for run in runs]
        path.write_text(json.dumps(said))
    return path


def _port(lines: Any) -> int:
    for line in lines:
        if "http://" in line:
            return int(line.split("http://")[1].split()[0].rpartition(":")[2])
    raise RuntimeError("the server did not start")


class Client:
    """Sends one text to some tasks at a time, and compares the answers with those of ``predict``."""

    def __init__(self, port: int, every: list[str], expected: list[list[list[float]]], tasks: int) -> None:
        self.port, self.every, self.expected, self.tasks = port, every, expected, tasks
        self.counts = {"asked": 0, "right": 0, "wrong": 0, "lost": 0, "again": 0}
        self._lock, self._random = threading.Lock(), random.Random(1)

    def run(self, count: int, clients: int) -> float:
        """The seconds of ``count`` requests by this many clients at once."""
        started = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(self._several, [count // clients] * clients))
        return time.perf_counter() - started

    def _several(self, count: int) -> None:
        line = HTTPConnection("127.0.0.1", self.port, timeout=120)
        for _ in range(count):
            with self._lock:
                number = self._random.randrange(len(self.every))
                asked = self._random.sample(range(self.tasks), min(self.tasks, self._random.choice((1, 1, 1, 2, 4))))
            try:
                found = self._ask(line, number, asked)
            except (OSError, ValueError):
                found = "lost"
                line.close()
            with self._lock:
                self.counts["asked"] += 1
                self.counts[found] += 1
        line.close()

    def _ask(self, line: HTTPConnection, number: int, asked: list[int]) -> str:
        body = json.dumps({"texts": [self.every[number]], "tasks": [f"task{task}" for task in asked]})
        while True:
            line.request("POST", "/predict", body, {"Content-Type": "application/json"})
            answer = line.getresponse()
            said = json.loads(answer.read())
            if answer.status != 429:
                break
            with self._lock:
                self.counts["again"] += 1
            time.sleep(float(answer.headers["Retry-After"]))
        if answer.status != 200:
            return "lost"
        answered = [[chances(said["answers"][f"task{task}"][0])] for task in asked]
        return "right" if apart(answered, [[self.expected[task][number]] for task in asked]) < CLOSE else "wrong"


# --- the page ------------------------------------------------------------------------------------------------------


def page(found: dict[str, Any]) -> str:
    """Make docs/results/serve.md from the measurements."""
    parts = [
        "# Serving many tasks beside as many merged models",
        "Written by `python -m benchmarks.serve` (see its docstring); [serve.md](../serve.md) describes the server.\n"
        "The machine had other work to do.",
    ]
    if "throughput" in found and "memory" in found:
        parts.append(_compared(found["prepare"], found["throughput"], found["memory"]))
    if "requests" in found:
        parts.append(_asked(found["requests"]))
    return "\n\n".join(parts) + "\n"


def _compared(made: dict[str, Any], speed: dict[str, Any], held: dict[str, Any]) -> str:
    answers = speed["texts"] * made["tasks"]
    rates = {name: answers / statistics.median(values) for name, values in speed["seconds"].items()}
    bytes_of = {side: f"{held[side]['bytes'] / 1e6:,.0f} MB" for side in ("ours", "theirs")}
    turns = ", ".join(f"{one:.2f}" for one in speed["ratios"])
    return f"""{made["tasks"]} classifiers on {made["model"]} with the plan `{made["depth"]}: lora`;
one thread, {made["machine"]}. An answer is one text for one task; every text is asked of all tasks.

| | stratatune serve | {made["tasks"]} merged models | |
|---|---|---|---|
| answers a second | {rates["ours"]:.1f} | {rates["theirs"]:.1f} | {speed["ratio"]:.2f} times |
| memory beside the libraries | {bytes_of["ours"]} | {bytes_of["theirs"]} | 1/{held["ratio"]:.1f} |

The ratio of throughput is the median of {speed["rounds"]} turns of {speed["texts"]} texts ({turns}).
The largest difference of a probability from `stratatune predict` is {speed["from_predict"]:.0e}, and from the merged
models {speed["from_merged"]:.0e}. Where every text is asked of one task alone, only the memory is shared: then the
server's throughput is {speed["ratio_alone"]:.2f} times that of one merged model."""


def _asked(asked: dict[str, Any]) -> str:
    sizes = [size / 1e6 for size in asked["memory"]]
    return f"""## Requests

{asked["asked"]:,} requests of one text for one to four of {asked["tasks"]} tasks on {asked["model"]},
by {asked["clients"]} clients in a second process over loopback; after the first {asked["asked"] // 11:,} in
{asked["seconds"]:.0f} s: {asked["wrong"]} wrong, {asked["lost"]} lost, {asked["again"]} asked to come again. An answer
is right where every probability is that of `stratatune predict` within {CLOSE:g}. The server held {sizes[0]:.1f} MB
after the first of eleven parts, {sizes[-1]:.1f} MB after the last and never more than {max(sizes):.1f} MB. After
SIGTERM it ended with exit code {asked["exit_code"]}."""


STEPS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "prepare": prepare,
    "throughput": throughput,
    "memory": memory,
    "requests": requests,
    "holding-ours": lambda args: holding(args, "ours"),
    "holding-theirs": lambda args: holding(args, "theirs"),
}


def main() -> None:
    """Run one step; its figures go into results/serve.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("step", choices=[*STEPS, "page"])
    parser.add_argument("--model")
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--depth", type=int, default=9)
    parser.add_argument("--samples", type=int, default=96, help="training texts of a task")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    args = parser.parse_args()
    args.folder = args.folder.resolve()
    path = RESULTS / "serve.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if args.step == "page":
        PAGE.write_text(page(found), encoding="utf-8")
        return
    result = STEPS[args.step](args)
    print(json.dumps(result))
    if not args.step.startswith("holding"):
        path.write_text(json.dumps({**found, args.step: result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
