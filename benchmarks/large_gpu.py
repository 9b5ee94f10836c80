"""An 8 B shape on a GPU: resident, streamed and in 4 bits beside LoRA on all blocks (peft).

    python -m benchmarks.large_gpu --checkpoint FOLDER --records FILE [--size qwen3-8b] [--texts 1024]
        [--evaluated 128] [--batch 32] [--epochs 2] [--arms resident-7/8,peft] [--limit 60] [--within 120]
        [--ahead imports|load]

A checkpoint of random bf16 weights is written, unless ``--checkpoint`` holds it from an earlier run. Then each arm runs
in a process of its own, the most important first: ours by the settings of a run, peft in a plain loop over the same
tokens, with fused AdamW, autocast to bf16 and clipping as in Trainer. qlora is peft over transformers' 4 bits as peft's
own recipe has it, so with gradient checkpointing. All texts have the same length, so nothing is padding.

A finished arm's record is written to ``--records`` at once, a line of JSON; an arm that fails, or takes longer than
``--limit`` seconds or what is left of ``--within``, leaves the end of its error there, and the next one begins. Arms
that ``--records`` holds are not run again, so the rows can be made of several runs.

Times are read when the device is done. An epoch's is the least after the first; three epochs are the trunk's pass, the
first epoch, the pause behind it (evaluation; of ours also the freeing of the trunk) and two more. A resident trunk runs
within the first epoch: its pass is what that epoch takes more than the next. Memory is what torch allocated at most, in
the whole run and in the last epoch; without a GPU it is the process's. Host memory includes mapped files. Each process
starts, and imports, while the arm before it runs; with ``--ahead load`` it loads its model then too, which saves time
and disturbs both a little.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from benchmarks.checkpoints import SIZES, write_checkpoint
from benchmarks.jobs import RESULTS, Record, machine, read, row, show_rows, some_of, write_rows
from benchmarks.streamed import TOKENS, most_held, settings, write_texts
from stratatune.progress import Bar, Reporter
from stratatune.units import readable_size

if TYPE_CHECKING:
    import torch

MODULE = "benchmarks.large_gpu"
LATE, HALF = "7/8: lora", "1/2: lora"
ARMS: dict[str, Record] = {
    "resident-7/8": {"plan": LATE, "trunk": "resident"},
    "peft": {},
    "streamed-7/8": {"plan": LATE, "trunk": "streamed"},
    "nf4-streamed-1/2": {"plan": HALF, "trunk": "streamed", "pack": "nf4"},
    "resident-1/2": {"plan": HALF, "trunk": "resident"},
    "qlora": {"packed": True, "checkpointing": True},
    "peft-checkpointing": {"checkpointing": True},
    "streamed-1/2": {"plan": HALF, "trunk": "streamed"},
    "nf4-resident-1/2": {"plan": HALF, "trunk": "resident", "pack": "nf4"},
}
"""The arms, the most important first; those with a plan are ours."""
PEERS = tuple(arm for arm, given in ARMS.items() if "plan" not in given)
_IMPORTED = (
    "peft", "transformers.models.qwen3.modeling_qwen3", "accelerate", "datasets", "sklearn.metrics",
    "stratatune.training.run",
)  # fmt: skip
"""What an arm imports before its turn."""
_TAIL = 2000  # characters of an error that a record keeps
_WRITING = 120.0  # seconds


def main() -> None:
    """Run the arms that are missing, and write the rows of all."""
    args = _arguments()
    if args.child:
        print(json.dumps(_child(json.loads(args.child))))
        return
    done = _run_all(args)
    rows = rows_of([one for one in done if _same(one, args)])
    show_rows(rows)
    write_rows(rows, int(os.environ.get("OMP_NUM_THREADS", "1")), args.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="qwen3-8b")
    parser.add_argument("--texts", type=int, default=1024, help="texts to train on")
    parser.add_argument("--evaluated", type=int, default=128, help="texts to evaluate")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2, help="at least 2: the first one warms up")
    parser.add_argument("--arms", type=some_of(tuple(ARMS)), default=tuple(ARMS), help=f"some of {', '.join(ARMS)}")
    parser.add_argument("--checkpoint", type=Path, help="where the checkpoint is, or is written and kept")
    parser.add_argument("--records", type=Path, help="lines of JSON, read and written")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for an arm")
    parser.add_argument("--within", type=float, default=float("inf"), help="seconds for everything")
    parser.add_argument("--ahead", choices=("imports", "load"), default="imports", help="what an arm does meanwhile")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the rows")
    parser.add_argument("--child", help="internal: run this one, as JSON, and print its record")
    return parser.parse_args()


def _same(record: Record, args: argparse.Namespace) -> bool:
    """Whether a record is a finished arm's, of these sizes."""
    return "failed" not in record and all(record.get(key) == value for key, value in _sizes(args).items())


def _sizes(args: argparse.Namespace) -> Record:
    return {"size": args.size, "texts": args.texts, "batch": args.batch, "epochs": args.epochs}


def _run_all(args: argparse.Namespace) -> list[Record]:
    """The records of all arms, old and new."""
    started = time.perf_counter()
    done = read(args.records) if args.records else []
    there = {one["arm"] for one in done if _same(one, args)}
    with tempfile.TemporaryDirectory() as folder:
        model = (args.checkpoint or Path(folder) / "model").resolve()
        shared = {"folder": folder, "model": str(model), "ahead": args.ahead, **_sizes(args)}
        jobs = [{"arm": arm, **shared} for arm in args.arms if arm not in there]
        if jobs and not (model / "tokenizer.json").exists():  # the file written last
            jobs.insert(0, {"arm": "checkpoint", **shared})
        write_texts(Path(folder), args.texts * TOKENS, args.evaluated)
        coming = _Process(jobs[0]) if jobs else None
        for number, job in enumerate(jobs):
            process = coming
            assert process is not None
            process.go()
            coming = _Process(jobs[number + 1]) if number + 1 < len(jobs) else None
            limit = _WRITING if job["arm"] == "checkpoint" else args.limit
            record = process.record(min(limit, args.within - (time.perf_counter() - started)))
            done.append({key: value for key, value in {**job, **record}.items() if key not in ("folder", "ahead")})
            if args.records:
                with args.records.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
            spent = time.perf_counter() - started
            print(f"{spent:.0f} s: {json.dumps(done[-1])}", file=sys.stderr, flush=True)
            if spent >= args.within or (job["arm"] == "checkpoint" and "failed" in record):
                break
        if coming is not None:
            coming.end()
    return done


class _Process:
    """The process of a job. It imports at once, and goes on when it is told to."""

    def __init__(self, job: Record) -> None:
        # Files, not pipes, which a process that is not yet listened to would fill.
        self.out = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed when it was read
        self.error = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-W", "ignore", "-m", MODULE, "--child", json.dumps(job)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self.out, stderr=self.error, text=True, env=environment
        )

    def go(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.close()
        except BrokenPipeError:  # it has failed by now, and its record will say why
            pass

    def record(self, limit: float) -> Record:
        """Wait ``limit`` seconds at most for its record; if it fails, that is the end of its error."""
        started, failed = time.perf_counter(), ""
        try:
            if code := self.process.wait(max(0.0, limit)):
                failed = f"exit status {code}"
        except subprocess.TimeoutExpired:
            failed = f"not done after {limit:.1f} s"
            self.process.kill()
            self.process.wait()
        said, error = _text(self.out), _text(self.error)
        if failed:
            return {"failed": failed, "stderr": error[-_TAIL:]}
        return {**json.loads(said.strip().splitlines()[-1]), "turn": time.perf_counter() - started}

    def end(self) -> None:
        """End it before its turn."""
        self.process.kill()
        self.process.wait()


def _text(file: IO[str]) -> str:
    file.seek(0)
    with file:
        return file.read()


def _child(job: Record) -> Record:
    """Run one job, when it is its turn."""
    import torch

    for name in _IMPORTED:
        importlib.import_module(name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.zeros(1, device=device)  # starts the device
    turn = _Turn()
    if job["arm"] == "checkpoint":
        turn.wait()
        started = time.perf_counter()
        size = write_checkpoint(job["size"], Path(job["model"]), device=device)
        return {"bytes": size, "seconds": time.perf_counter() - started, "device": device, "machine": machine()}
    given = ARMS[job["arm"]]
    if job["ahead"] == "imports" or not (Path(job["model"]) / "tokenizer.json").exists():
        turn.wait()
    meter = _Meter(torch.device(device), turn)
    found = _ours(job, given, meter) if "plan" in given else _peer(job, given, meter)
    return {**meter.record(job), **found, "device": device, "machine": machine()}


class _Turn:
    """The turn of this process, which begins when a line comes in."""

    def __init__(self) -> None:
        self.begun = False

    def wait(self) -> None:
        if not self.begun:
            if not sys.stdin.readline():
                raise SystemExit("whoever started this has gone")
            self.begun = True


@dataclass(frozen=True)
class _Span:
    """A part of a run: when it began and ended, and the most bytes of the device in it."""

    label: str
    start: float
    stop: float
    peak: int

    @property
    def seconds(self) -> float:
        return self.stop - self.start


class _Meter:
    """The clock and the memory of an arm; the turn begins before its first span at the latest."""

    def __init__(self, device: torch.device, turn: _Turn) -> None:
        self.device, self.turn = device, turn
        self.spans: list[_Span] = []
        self.load = 0.0
        self.most = 0
        self.began = self.now()

    def now(self) -> float:
        """The time once the device is done."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def span(self, label: str) -> Iterator[None]:
        """Measure what is done while this is open."""
        import torch

        if not self.spans:
            self.load = self.now() - self.began
            self.turn.wait()
        self._note()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = self.now()
        yield
        self.spans.append(_Span(label, start, self.now(), self._note()))

    def _note(self) -> int:
        """The most bytes in use since the last span began."""
        import torch

        held = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else most_held()["peak"]
        self.most = max(self.most, held)
        return held

    def record(self, job: Record) -> Record:
        """What was measured."""
        self._note()
        epochs = [one for one in self.spans if one.label.startswith("epoch")]
        trunk = {"train": 0.0, "eval": 0.0}
        for one in self.spans:
            if one.label.startswith("trunk"):
                trunk["eval" if "evaluation" in one.label else "train"] += one.seconds
        first, warm = epochs[0].seconds, min(one.seconds for one in epochs[1:])
        pause = epochs[1].start - epochs[0].stop
        return {
            "load": self.load,
            "trunk": trunk["train"] or (max(0.0, first - warm) if "plan" in ARMS[job["arm"]] else 0.0),
            "trunk_eval": trunk["eval"],
            "first": first,
            "pause": pause,
            "epoch": warm,
            "three": trunk["train"] + first + pause + 2 * warm,
            "tokens_per_second": job["texts"] * TOKENS / warm,
            "peak": self.most,
            "peak_epoch": epochs[-1].peak,
            "host": most_held()["peak"],
        }


class _Measured(Reporter):
    """Measures the bars of a run: the trunk's passes and the epochs."""

    def __init__(self, meter: _Meter) -> None:
        super().__init__(quiet=True)
        self.meter = meter

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Bar]:
        with self.meter.span(label), super().bar(label, total) as bar:
            yield bar


def _ours(job: Record, given: Record, meter: _Meter) -> Record:
    """A run of ours."""
    from stratatune.training.run import train

    folder, own = Path(job["folder"]), job["arm"].replace("/", "-of-")
    places = {"out": str(folder / f"{own}-run"), "cache": str(folder / f"{own}-cache")}
    more = {"epochs": job["epochs"], "batch_size": job["batch"], **places, **given}
    done = train(settings(folder, Path(job["model"]), 0, **more), reporter=_Measured(meter))
    return {"trainable": done.trainable, "score": done.best.get(done.metric), "notices": done.notices}


def _peer(job: Record, given: Record, meter: _Meter) -> Record:
    """Stock LoRA of rank 8 on q and v of every block, in a loop as plain as can be."""
    import torch

    device = meter.device
    tuned = _peft_model(job["model"], given, device)
    trained = [one for one in tuned.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    train, evaluated = (_tokens(job, name) for name in ("train", "eval"))
    random = torch.Generator().manual_seed(0)

    def batches(data: tuple[torch.Tensor, torch.Tensor], order: torch.Tensor) -> Iterator[dict[str, torch.Tensor]]:
        for index in order.split(job["batch"]):
            ids, labels = (part[index].to(device, non_blocking=True) for part in data)
            yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    def mixed() -> torch.autocast:
        return torch.autocast(device.type, dtype=torch.bfloat16)

    right = 0
    for epoch in range(job["epochs"]):
        tuned.train()
        with meter.span(f"epoch {epoch + 1}"):
            for batch in batches(train, torch.randperm(len(train[0]), generator=random)):
                with mixed():
                    loss = tuned(**batch).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimiser.step()
                optimiser.zero_grad()
        tuned.eval()
        right = 0
        with torch.no_grad(), mixed():
            for batch in batches(evaluated, torch.arange(len(evaluated[0]))):
                right += int((tuned(**batch).logits.argmax(1) == batch["labels"]).sum())
    return {"trainable": sum(one.numel() for one in trained), "score": right / len(evaluated[0])}


def _peft_model(model: str, given: Record, device: torch.device) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

    place = 0 if device.type == "cuda" else "cpu"
    how: Record = {"dtype": torch.bfloat16, "num_labels": 2, "device_map": {"": place}}
    if given.get("packed"):
        how["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=["score"],  # it is new, and trains
        )
    loaded: Any = AutoModelForSequenceClassification.from_pretrained(model, **how)
    loaded.config.use_cache = False
    plain = {"use_reentrant": False}
    if given.get("packed"):
        loaded = prepare_model_for_kbit_training(loaded, gradient_checkpointing_kwargs=plain)
    elif given.get("checkpointing"):
        loaded.gradient_checkpointing_enable(gradient_checkpointing_kwargs=plain)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS")
    return get_peft_model(loaded, lora)


def _tokens(job: Record, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens [N, T] and labels [N] of a file that :func:`write_texts` wrote."""
    import torch
    from transformers import AutoTokenizer

    lines = (Path(job["folder"]) / f"{name}.csv").read_text().splitlines()[1:]
    texts, labels = zip(*(line.split(",") for line in lines), strict=True)
    ids = AutoTokenizer.from_pretrained(job["model"])(list(texts), return_tensors="pt")["input_ids"]
    assert ids.shape[1] == TOKENS
    return ids, torch.tensor([int(label == "yes") for label in labels])


def rows_of(records: list[Record]) -> list[Record]:
    """A row for each arm, and one for each of ours beside all peers that ran."""
    found = {one["arm"]: one for one in records if one["arm"] in ARMS}
    rows: list[Record] = []
    for arm in (arm for arm in ARMS if arm in found):
        one = found[arm]
        shape = f"{one['size']}, {one['texts']:,} texts of {TOKENS} tokens, batch {one['batch']}"

        def line(id: str, what: str, measured: str, one: Record = one) -> Record:
            return {**row(f"{one['device']} H {id}", what, "-", "-", measured, MODULE), "machine": one["machine"]}

        rows.append(line(arm, f"{shape}: {_said(arm)}", _measured(one)))
        beside = [f"{peer}: {_against(one, found[peer])}" for peer in PEERS if peer in found]
        if "plan" in ARMS[arm] and beside:
            rows.append(line(f"{arm} beside", f"{shape}: the peers over {arm}", "; ".join(beside)))
    return rows


def _said(arm: str) -> str:
    given = ARMS[arm]
    if "plan" in given:
        packed = f", pack {given['pack']}" if "pack" in given else ""
        return f"{given['plan']}, {given['trunk']}{packed}"
    return "LoRA on all blocks" + (", 4 bits" if "packed" in given else "") + ", checkpointing" * bool(given)


def _measured(one: Record) -> str:
    trunk = f"trunk {one['trunk']:.2f} s, " if "plan" in ARMS[one["arm"]] else ""
    return (
        f"load {one['load']:.1f} s, {trunk}an epoch {one['epoch']:.2f} s ({one['tokens_per_second']:,.0f} tokens/s), "
        f"three epochs {one['three']:.1f} s; memory {readable_size(one['peak'])}, in the last epoch "
        f"{readable_size(one['peak_epoch'])}, host {readable_size(one['host'])}"
    )


def _against(one: Record, peer: Record) -> str:
    epoch, three, peak, last = (peer[key] / one[key] for key in ("epoch", "three", "peak", "peak_epoch"))
    return f"an epoch {epoch:.2f}x, three epochs {three:.2f}x, memory {peak:.2f}x, in the last epoch {last:.2f}x"


if __name__ == "__main__":
    main()
