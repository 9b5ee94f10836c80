"""``--plan auto`` beside the ways of today on real weights: score, and seconds to the score of stock LoRA.

    python -m benchmarks.auto --model MODEL --data GLUE_AND_TREC_FOLDER [--tasks trec,sst2] [--seeds 0] [--rows 1500]

Arms: ``A`` stock peft LoRA (r = 8, q and v) on all blocks, random batches; ``C`` the strong user: full tuning of the
topmost blocks (a quarter, three at least), batches cut by length; ``F`` full tuning, random batches; ``floor`` the mean
of the frozen last hidden states and a ridge classifier; ``default`` what this build did before (``bft-adapter``, rate
1e-3); ``auto``; and plans chosen by hand: ``upper-half``, ``top`` (``3/4: full``) and ``spafit``. All in bf16 on one
thread, batches of 32, each run a process of its own that pays for its own cache and its own choice; arms of a task run
one after the other. Scores are those of the task's dev split (TREC: test) after each epoch, which ``auto`` does not see
when it chooses. The rates of A, C, F and the plans are the better of two by one run of one epoch with seed 100,
whose time is not counted. Seconds leave evaluation out. Finished runs are skipped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import geometric_mean, mean, stdev
from typing import Any

from benchmarks.accuracy import FOLDERS, SAMPLES, SPLITS
from benchmarks.jobs import RESULTS, SEARCH_SEED, Rates, Record, alone, device, machine, read, run_options, run_table

MODULE = "benchmarks.auto"
PLANS = {"upper-half": "upper-half", "top": "3/4: full", "spafit": "spafit-1-2-II"}
EPOCHS = {"A": 3, "C": 3, "F": 3, "default": 10, **dict.fromkeys(PLANS, 3)}
SCORED = {"qnli": 1000}
"""How many rows of a long dev file are scored, its first ones: all 5,463 of QNLI would take longer than training."""
OWN = 0.0
"""The rate of an arm that chooses its own, or has none."""
RATES: Rates = {
    "auto": (OWN,),
    "C": (1e-4, 5e-4),
    "A": (1e-3, 3e-3),
    "F": (5e-5, 2e-4),
    "default": (1e-3,),
    "upper-half": (1e-4, 3e-4),
    "top": (1e-4, 3e-4),
    "spafit": (3e-4, 1e-3),
    "floor": (OWN,),
}


def main() -> None:
    """Run what is missing, then print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="the folder with glue/ and sentence/")
    parser.add_argument("--out", type=Path, default=RESULTS / "auto.jsonl")
    parser.add_argument("--tasks", default="trec,sst2,cola,mrpc,rte,stsb,qnli")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--arms", default=",".join(RATES))
    parser.add_argument("--rows", type=int, default=0, help="training rows; 0: the task's, 10,000 of SST-2")
    parser.add_argument("--page", type=Path, help="where to write the table")
    run_options(parser)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run_one(json.loads(args.one), args.model, args.data)))
        return
    done = read(args.out)
    name = Path(args.model).name
    for task in args.tasks.split(","):
        rows = args.rows or SAMPLES.get(task, 0)
        rates = {arm: RATES[arm] for arm in args.arms.split(",")}
        run_table(MODULE, {"task": task, "rows": rows, "base": name}, rates, done, args)
    found = [run for run in done if run["base"] == name and run["seed"] != SEARCH_SEED]
    text = page([_in_processor_seconds(run) for run in found], name)
    print(text)
    if args.page:
        args.page.write_text(text)


def run_one(job: dict[str, Any], model: str, data: str) -> Record:
    """One run of one arm: its score after each epoch, and the seconds until then."""
    import torch

    torch.set_num_threads(1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        source = _source(job["task"], Path(data) / FOLDERS[job["task"]], Path(out))
        settings = {
            **{"model": model, "task": job["task"], "train": str(source), "eval_split": SPLITS.get(job["task"])},
            **{"train_samples": job["rows"] or None, "seed": job["seed"], "out": f"{out}/run", "cache": f"{out}/cache"},
        }
        given = {key: value for key, value in settings.items() if value is not None}
        arms = {"auto": _ours, "default": _ours, "floor": _floor, **dict.fromkeys(PLANS, _ours)}
        record = arms.get(job["arm"], _stock)(job, given)
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    record["score"] = max(record["history"])
    return {**job, **record, "wall": time.perf_counter() - started, "load": load, "machine": machine()}


def _source(task: str, folder: Path, out: Path) -> Path:
    """The folder of the task's files, or one in ``out`` whose dev file is cut short."""
    if task not in SCORED:
        return folder
    short = out / folder.name
    short.mkdir()
    (short / "train.tsv").symlink_to((folder / "train.tsv").resolve())
    with (folder / "dev.tsv").open(encoding="utf-8", newline="") as lines:
        (short / "dev.tsv").write_text("".join(islice(lines, 1 + SCORED[task])), encoding="utf-8", newline="")
    return short


def _metric(task: str) -> str:
    from stratatune.data.tasks import TASKS

    return TASKS[task].metric


def _ours(job: dict[str, Any], given: dict[str, Any]) -> Record:
    """``auto``, the defaults of before, or a plan. What choosing took is in the seconds of every epoch."""
    from stratatune.progress import Reporter
    from stratatune.studies.suggest.auto import RECORD, train
    from stratatune.training.config import validate

    arm = job["arm"]
    named: dict[str, Any] = {}
    if arm != "auto":
        epochs = 1 if job["seed"] == SEARCH_SEED else EPOCHS[arm]
        named = {"plan": PLANS.get(arm, "bft-adapter"), "lr": job["lr"], "epochs": epochs}
    if arm == "default":
        named["precision"] = "fp32"
    result = train(validate({**given, **named}), reporter=Reporter(quiet=True))
    folder = Path(given["out"])
    choice = json.loads((folder / RECORD).read_text()) if (folder / RECORD).exists() else {}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    history = [line[f"eval_{_metric(job['task'])}"] for line in lines]
    seconds = [choice.get("seconds", 0.0) + one for one in result.elapsed]
    return {"plan": result.plan, "history": history, "seconds": seconds, "choice": choice}


def _stock(job: dict[str, Any], given: dict[str, Any]) -> Record:
    """A, C and F: transformers' model, plain or under peft, in a plain loop."""
    import numpy as np
    import torch
    from torch.nn import functional

    from stratatune.costs.cost import random_batches
    from stratatune.data.batching import collate, pad_id, plan_batches
    from stratatune.studies.bench.arms import with_peft
    from stratatune.training.config import validate
    from stratatune.training.machine import now
    from stratatune.training.optimiser import rate_factor

    arm, rate = job["arm"], job["lr"]
    epochs = 1 if job["seed"] == SEARCH_SEED else EPOCHS[arm]
    base, prepared = _loaded({**given, "plan": "lora", "epochs": epochs})
    base.model.to(device())
    torch.manual_seed(job["seed"])
    objective, train, dev = prepared.objective, prepared.train, prepared.eval
    # A checkpoint in half precision is loaded as it is, and nothing trains well in that.
    model = with_peft(base.model.float()) if arm == "A" else base.model.float()
    if arm != "A":
        _train_from(model, _top_depth(base.model) if arm == "C" else 0)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01, fused=True)
    steps, total = 0, epochs * math.ceil(train.examples / 32)
    config = validate({**given, "plan": "lora"})
    pad, seconds, history, times = pad_id(base.tokenizer), 0.0, [], []

    def forward(index: Any, data: Any) -> tuple[Any, Any]:
        batch = collate(data, index, pad).to(device())
        types = {} if batch.token_types is None else {"token_type_ids": batch.token_types}
        with torch.autocast(device().type, dtype=torch.bfloat16):
            return model(input_ids=batch.input_ids, attention_mask=batch.mask.long(), **types).logits.float(), batch

    for epoch in range(epochs):
        started = now(device())
        model.train()
        if arm == "C":
            batches = plan_batches(train.lengths, batch_size=32, seed=job["seed"], epoch=epoch)
        else:
            batches = random_batches(train.examples, 32, 1000 * job["seed"] + epoch)
        for index in batches:
            for group in optimiser.param_groups:
                group["lr"] = rate * rate_factor(steps, total, config)
            logits, batch = forward(index, train)
            wanted = batch.labels
            loss = functional.mse_loss(logits[:, 0], wanted) if objective.outputs == 1 else None
            loss = functional.cross_entropy(logits, wanted) if loss is None else loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            steps += 1
        seconds += now(device()) - started
        model.eval()
        with torch.no_grad():
            cut = plan_batches(dev.lengths, batch_size=64, seed=0, epoch=0, shuffle=False)
            found = [objective.predict(*forward(index, dev)) for index in cut]
        output = np.concatenate(found)[np.argsort(np.concatenate(cut))]
        history.append(objective.score(output, dev, 1e-2)[0][_metric(job["task"])])
        times.append(seconds)
    return {"plan": f"{arm} at {rate:g}", "history": history, "seconds": times}


def _floor(job: dict[str, Any], given: dict[str, Any]) -> Record:
    """The mean over the tokens of the frozen last hidden state, and a ridge classifier, or ridge regression."""
    import numpy as np
    import torch
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    from stratatune.data.batching import pad_id
    from stratatune.model.backbone import Backbone
    from stratatune.progress import Reporter
    from stratatune.studies.suggest.probing import read_depths
    from stratatune.training.machine import now

    base, prepared = _loaded({**given, "plan": "frozen"})
    base.model.to(device())
    started = now(device())

    def states(data: Any) -> Any:
        found = read_depths(
            Backbone(base.model), data, pad_id(base.tokenizer), batch_size=32, device=device(),
            autocast=torch.bfloat16, reporter=Reporter(quiet=True),
        )  # fmt: skip
        return found.features[:, -1, found.readings.index("mean")]

    objective, labels = prepared.objective, prepared.train.labels
    scaler = StandardScaler().fit(inputs := states(prepared.train))
    targets = labels[:, None] if objective.outputs == 1 else np.eye(objective.outputs)[labels]
    fitted = RidgeCV(np.logspace(0, 5, 11)).fit(scaler.transform(inputs), targets)
    seconds = now(device()) - started
    output = fitted.predict(scaler.transform(states(prepared.eval)))
    output = output.reshape(-1) if objective.outputs == 1 else output
    score = objective.score(output, prepared.eval, 1e-2)[0][_metric(job["task"])]
    return {"plan": "frozen mean states, ridge", "history": [score], "seconds": [seconds]}


def _loaded(settings: dict[str, Any]) -> tuple[Any, Any]:
    """The base model under a new output layer, and the data settled."""
    from stratatune.model.base import load_base
    from stratatune.training.config import validate
    from stratatune.training.prepare import Outline, read_tables, settle

    config = validate(settings)
    outline = Outline(config)
    prepared = settle(outline, read_tables(config, {}, outline.kind))
    return load_base(**prepared.base), prepared


def _top_depth(model: Any) -> int:
    from stratatune.studies.suggest.candidates import top_depth

    return top_depth(model.config.num_hidden_layers)


def _train_from(model: Any, depth: int) -> None:
    """Train all, or the blocks from ``depth`` on and what stands above them."""
    from stratatune.model.backbone import Backbone

    blocks = Backbone(model).blocks
    model.requires_grad_(depth == 0)
    for block in blocks[depth:] if depth else ():
        block.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if depth and any(part in name for part in ("pooler", "classifier", "score")):
            parameter.requires_grad_(True)


def _in_processor_seconds(run: Record) -> Record:
    """The run with its seconds times the share of a core that its process had."""
    return {**run, "seconds": [run.get("share", 1.0) * one for one in run["seconds"]]}


def page(runs: list[Record], base: str) -> str:
    """The table, as Markdown: the score and the seconds of each arm, and its time to A's best mean score.

    Seconds are those of the runs that had the machine for themselves; scores are those of all.
    """
    lines = [
        f"## {base}",
        "",
        f"Machine: {', '.join(dict.fromkeys(run['machine'] for run in runs)) or '-'}; one thread a run. "
        "Seconds are those of the processor: other work on the machine does not count. Scores: mean and standard "
        "deviation over the seeds.",
        "",
        "| task | rows | arm | what | seeds | best score | seconds to it | seconds of all | to A's best: sooner |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ratios: dict[str, list[float]] = {}
    for task, rows in dict.fromkeys((run["task"], run["rows"]) for run in runs):
        here = [run for run in runs if (run["task"], run["rows"]) == (task, rows)]
        arms = {arm: [run for run in here if run["arm"] == arm] for arm in RATES}
        target = mean(max(run["history"]) for run in alone(arms["A"])) if alone(arms["A"]) else math.inf
        reference = _time_to(alone(arms["A"]), target)
        for arm, found in arms.items():
            if not found:
                continue
            scores, timed = [max(run["history"]) for run in found], alone(found)
            best, at = mean(scores), _time_to(timed, target)
            ratio = reference / at if at and reference else None
            if ratio:
                ratios.setdefault(arm, []).append(ratio)
            cells = [task, f"{rows or 'all'}", arm, ", ".join(dict.fromkeys(run["plan"] for run in found))]
            cells.append(f"{len(found)}")
            cells.append(f"{100 * best:.1f}" + (f" ± {100 * stdev(scores):.1f}" if len(scores) > 1 else ""))
            if timed:
                cells.append(f"{mean(run['seconds'][run['history'].index(max(run['history']))] for run in timed):.0f}")
                cells.append(f"{mean(run['seconds'][-1] for run in timed):.0f}")
                cells.append(f"{ratio:.1f}x" if ratio else _short(target, best))
            else:
                cells += ["-"] * 3
            lines.append(f"| {' | '.join(cells)} |")
    means = "; ".join(f"{arm} {geometric_mean(found):.1f}x ({len(found)} tasks)" for arm, found in ratios.items())
    lines += ["", f"Geometric means over the tasks where the arm gets there: {means or 'none'}."]
    return "\n".join(lines) + "\n"


def _short(target: float, best: float) -> str:
    return "-" if math.isinf(target) else f"never ({100 * (target - best):.1f} short)"


def _time_to(runs: list[Record], target: float) -> float | None:
    """Seconds until the mean over the seeds is at ``target`` or above; runs that stopped keep their best score."""
    if not runs:
        return None
    longest = max(len(run["history"]) for run in runs)
    for epoch in range(longest):
        scores = [max(run["history"][: epoch + 1]) for run in runs]
        if mean(scores) >= target - 1e-9:
            return mean(run["seconds"][min(epoch, len(run["seconds"]) - 1)] for run in runs)
    return None


if __name__ == "__main__":
    main()
