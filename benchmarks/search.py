"""Vectors and rank on real data beside sentence-transformers' own trainers: STS-B, QNLI as a search, MRPC.

    python -m benchmarks.search --model MODEL --data FOLDER [--tasks sts-b,qnli,mrpc] [--seeds 0,1,2] [--rows 2000]
        [--evaluated 1000] [--precision bf16] [--arms ARM,ARM]

QNLI: a question and the sentence that answers it are a pair; the answers of the evaluation part are the documents.
STS-B: scored pairs of sentences. MRPC: two sentences and whether they say the same, by a cross-encoder.

All arms have the same rows, epochs, batch size, weight decay, precision and loss (ranking over the batch, CoSENT,
binary cross-entropy), one thread. The peers are sentence-transformers' trainers: all weights, and peft LoRA (r = 8,
query and value). Every run is a process of its own. The score is that of the best epoch on dev, computed for all arms
by the same lines: Spearman's correlation, nDCG at 10, average precision. Each arm's rate is the best of two by one run
of one epoch with seed 100. Finished runs are skipped.
"""

from __future__ import annotations

import csv
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jobs import BY_DEPTH, SEARCH_SEED, Record, arguments, beside, device, heads, read, run_table, seeds_of
from benchmarks.records import lora_settings, run_ours, run_stock, stock_arguments, write_rows

MODULE = "benchmarks.search"
TASKS = {
    "sts-b": {"objective": "vectors", "metric": "spearman", "batch_size": 32},
    "qnli": {"objective": "vectors", "metric": "ndcg@10", "batch_size": 64},
    "mrpc": {"objective": "rank", "metric": "average_precision", "batch_size": 32},
}
SHOWN = {"sts-b": "STS-B, Spearman", "qnli": "QNLI as a search, nDCG@10", "mrpc": "MRPC, average precision"}
QUERIES = "2/3: full, queries alone"
OURS = ("2/3: full", "1/2: full", "1/2: lora(rank=8)", QUERIES)
PEERS = ("peft lora", "full tuning")
RATES = {
    **dict.fromkeys(("2/3: full", "1/2: full", QUERIES), (5e-5, 2e-4)),
    **dict.fromkeys(("1/2: lora(rank=8)", "peft lora"), (3e-4, 1e-3)),
    "full tuning": (2e-5, 1e-4),
}
ROWS, EVALUATED, EPOCHS, MAX_LENGTH = 2000, 1000, 3, 128
COLUMNS = {"sts-b": ("sentence1", "sentence2"), "qnli": ("question", "answer"), "mrpc": ("sentence1", "sentence2")}


def main() -> None:
    """Search the rates, then run the table."""
    args = arguments(__doc__, "search.jsonl", ROWS, (*OURS, *PEERS), precision=True, evaluated=EVALUATED)
    if args.one:
        print(json.dumps(run_one(json.loads(args.one), args.model, args.data)))
        return
    done = read(args.out)
    for task in args.tasks.split(",") if args.tasks else TASKS:
        rates = {arm: RATES[arm] for arm in args.arms if arm != QUERIES or task == "qnli"}
        job = {"base": Path(args.model).name, "task": task, "rows": args.rows, "evaluated": args.evaluated}
        job |= {"precision": args.precision}
        run_table(MODULE, job, rates, done, args)


def run_one(job: Record, model: str, data: str) -> Record:
    """One run of one arm."""
    import torch

    torch.set_num_threads(1)
    train, dev = (_rows(job, Path(data), part) for part in ("train", "dev"))
    epochs = 1 if job["seed"] == SEARCH_SEED else EPOCHS
    with tempfile.TemporaryDirectory() as out:
        run = _peer if job["arm"] in PEERS else _ours
        record = run(job, model, train, dev, epochs, out)
    return {**job, **record, "epochs": epochs}


def _rows(job: Record, data: Path, part: str) -> list[dict[str, Any]]:
    """The rows of a task in the columns that both sides read; those to train on are drawn by the seed."""
    task = job["task"]
    path = data / "glue" / {"sts-b": "STS-B", "qnli": "QNLI", "mrpc": "MRPC"}[task] / f"{part}.tsv"
    with path.open(encoding="utf-8-sig") as file:
        read = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if task == "sts-b":
        rows = [
            {"sentence1": one["sentence1"], "sentence2": one["sentence2"], "score": float(one["score"]) / 5}
            for one in read
        ]
    elif task == "qnli":
        rows = [
            {"question": one["question"], "answer": one["sentence"]} for one in read if one["label"] == "entailment"
        ]
    else:
        rows = [
            {"sentence1": one["#1 String"], "sentence2": one["#2 String"], "score": float(one["Quality"])}
            for one in read
        ]
    if part == "train":
        return random.Random(job["seed"]).sample(rows, min(job["rows"], len(rows)))
    return rows[: job["evaluated"]]


def _ours(job: Record, model: str, train: list[Any], dev: list[Any], epochs: int, out: str) -> Record:
    files = {name: write_rows(Path(out) / f"{name}.jsonl", rows) for name, rows in (("train", train), ("eval", dev))}
    plan, _, alone = job["arm"].partition(", ")
    asked = {**TASKS[job["task"]], "plan": plan, "lr": job["lr"], "seed": job["seed"], "epochs": epochs}
    asked |= {"objective": f"{asked['objective']}(query_only=true)"} if alone else {}
    asked |= {**files, "model": model, "max_length": MAX_LENGTH}
    asked |= {"precision": job["precision"], "out": f"{out}/run", "cache": f"{out}/cache"}
    return {"untuned": None, **run_ours(asked, asked["metric"])}


def _peer(job: Record, model: str, train: list[Any], dev: list[Any], epochs: int, out: str) -> Record:
    """sentence-transformers' own trainer on the same rows."""
    from datasets import Dataset
    from sentence_transformers.base.evaluation import BaseEvaluator
    from transformers import set_seed

    set_seed(job["seed"])
    network, loss, trainer_class, arguments_class = _parts(job, model)
    measured = _measure(job, network, dev)

    class Evaluator(BaseEvaluator):
        primary_metric = "score"

        def __call__(self, *_: Any, **__: Any) -> dict[str, float]:
            return {"score": measured()}

    untuned = None if job["task"] == "mrpc" else measured()
    arguments = arguments_class(**stock_arguments(job, out, epochs, TASKS[job["task"]]["batch_size"]))
    trainer = trainer_class(
        model=network, args=arguments, train_dataset=Dataset.from_list(train), loss=loss, evaluator=Evaluator()
    )
    return {"untuned": untuned, **run_stock(trainer, "score")}


def _parts(job: Record, folder: str) -> tuple[Any, Any, Any, Any]:
    """The peer's model, loss, trainer and arguments."""
    from peft import LoraConfig, inject_adapter_in_model
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from sentence_transformers.sentence_transformer.trainer import SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments

    lora = LoraConfig(**lora_settings(folder))
    if job["task"] == "mrpc":
        network: Any = CrossEncoder(folder, num_labels=1, max_length=MAX_LENGTH, device=device().type)
        if job["arm"] == "peft lora":
            network.model.requires_grad_(False)
            inject_adapter_in_model(lora, network.model)
            for name, parameter in network.model.named_parameters():
                if "lora_" in name or "classifier" in name or "pooler" in name:
                    parameter.requires_grad_(True)
        return network, BinaryCrossEntropyLoss(network), CrossEncoderTrainer, CrossEncoderTrainingArguments
    transformer: Any = Transformer(folder, max_seq_length=MAX_LENGTH)
    if job["arm"] == "peft lora":
        transformer.model.requires_grad_(False)
        inject_adapter_in_model(lora, transformer.model)
    pooling = Pooling(transformer.get_embedding_dimension())
    network = SentenceTransformer(modules=[transformer, pooling], device=device().type)
    kind = losses.CoSENTLoss if job["task"] == "sts-b" else losses.MultipleNegativesRankingLoss
    return network, kind(network), SentenceTransformerTrainer, SentenceTransformerTrainingArguments


def _measure(job: Record, network: Any, dev: list[Any]) -> Callable[[], float]:
    """The score of the peer's model on dev, by the functions that score ours."""
    import torch
    from scipy.stats import spearmanr
    from sklearn.metrics import average_precision_score

    from stratatune.objectives.retrieval import search_scores, unit

    first, second = ([row[name] for row in dev] for name in COLUMNS[job["task"]])
    wanted = [row.get("score") for row in dev]

    @torch.autocast(device().type, torch.bfloat16, enabled=job["precision"] == "bf16")
    def measure() -> float:
        if job["task"] == "mrpc":
            found = network.predict(list(zip(first, second, strict=True)), show_progress_bar=False)
            return float(average_precision_score(wanted, found))
        if job["task"] == "sts-b":
            left, right = (unit(network.encode(texts, show_progress_bar=False)) for texts in (first, second))
            found: Any = spearmanr((left * right).sum(1), wanted)
            return float(found.statistic)
        documents = {text: number for number, text in enumerate(dict.fromkeys(second))}
        queries = list(dict.fromkeys(first))
        right = {text: set[int]() for text in queries}
        for question, answer in zip(first, second, strict=True):
            right[question].add(documents[answer])
        vectors = [np.asarray(network.encode(texts, show_progress_bar=False)) for texts in (queries, list(documents))]
        return search_scores(vectors[0], vectors[1], [frozenset(right[text]) for text in queries])["ndcg@10"]

    return measure


def page(records: list[Record]) -> str:
    """docs/results/search.md."""
    runs = [run for run in records if run["seed"] != SEARCH_SEED]
    lines = [
        "# Vectors and rank compared with sentence-transformers",
        "",
        "Written by `python -m benchmarks.tables`; measured by `python -m benchmarks.search` (see its docstring).",
        f"All runs take {EPOCHS} epochs on one CPU thread, with texts of up to {MAX_LENGTH} tokens. Score is that of",
        "the best epoch on the dev rows: mean and standard deviation over the seeds, in points. `Less peft` is the",
        "mean difference over the same seeds, with its 95 % interval; peft is sentence-transformers' trainer with",
        "LoRA. Seconds are processor time of training, including the trunk pass and excluding evaluation; each run",
        "builds its own cache, and the fastest seed counts. Memory is the peak of the process. `Untuned` is the",
        "score of the base model as it is; with a new output layer (MRPC), there is none.",
        *BY_DEPTH,
    ]
    for base, task, precision in dict.fromkeys((run["base"], run["task"], run["precision"]) for run in runs):
        here = [run for run in runs if (run["base"], run["task"], run["precision"]) == (base, task, precision)]
        seeds = seeds_of(here)
        untuned = [run["untuned"] for run in here if run["untuned"] is not None]
        said = f" Untuned: {100 * np.mean(untuned):.1f}." if untuned else ""
        lines += ["", f"## {base}: {SHOWN[task]}", ""]
        lines += [
            f"{precision}, {here[0]['rows']:,} training rows drawn by the seed,",
            f"up to {here[0]['evaluated']:,} dev rows; {seeds}.{said}",
            "",
            *heads(),
        ]
        peer = [run for run in here if run["arm"] == "peft lora"]
        for arm in (*OURS, *PEERS):
            if own := [run for run in here if run["arm"] == arm]:
                lines.append(beside(f"`{arm}`" if arm in OURS else arm, own, peer))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
