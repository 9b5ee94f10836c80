"""Scripts that train plans beside the trainers of today: searches, records and pages, on tiny models."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmarks import chat, jobs, labels, search, sweeps, tables, tags

FIELDS = {"arm", "lr", "seed", "rows", "score", "history", "trainable", "seconds", "memory", "epochs"}
WORDS = ("a good film", "the worst book", "she loves this story", "he hates the food", "a long day", "the old city")


# --- searches and tables ----------------------------------------------------------------------------------------------


@pytest.fixture
def runs(monkeypatch):
    """The jobs that were run in processes of their own; each scores its rate."""
    started = []

    def process(command, **_):
        job = json.loads(command[command.index("--one") + 1])
        started.append(job)
        return SimpleNamespace(returncode=0, stdout=f"a line\n{json.dumps({**job, 'score': job['lr']})}\n", stderr="")

    monkeypatch.setattr(subprocess, "run", process)
    return started


def given(tmp_path, seeds=None):
    return argparse.Namespace(model="m", data="d", out=tmp_path / "runs.jsonl", seeds=seeds, jobs=1)


@pytest.mark.parametrize(("best", "rate"), [(max, 0.3), (min, 0.1)])
def test_the_best_rate_is_searched_once_and_then_used_by_every_seed(best, rate, runs, tmp_path):
    args, rates = given(tmp_path), {"ours": (0.1, 0.3, 0.2), "peer": (0.5,)}
    jobs.run_table("module", {"rows": 8}, rates, jobs.read(args.out), args, best)
    searched = [("ours", one, jobs.SEARCH_SEED) for one in rates["ours"]]
    seeds = [(arm, lr, seed) for seed in jobs.SEEDS for arm, lr in (("ours", rate), ("peer", 0.5))]
    assert [(run["arm"], run["lr"], run["seed"]) for run in runs] == [*searched, *seeds]
    assert [one["rows"] for one in jobs.read(args.out)] == [8] * len(runs)
    # Started again it runs nothing; what has other rows is another table.
    finished = len(runs)
    jobs.run_table("module", {"rows": 8}, rates, jobs.read(args.out), args, best)
    assert len(runs) == finished
    jobs.run_table("module", {"rows": 9}, rates, jobs.read(args.out), args, best)
    assert len(runs) == 2 * finished


def test_an_arm_whose_search_failed_has_no_runs(tmp_path, monkeypatch, capsys):
    failed = SimpleNamespace(returncode=1, stdout="", stderr="out of memory")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    args = given(tmp_path, seeds="0")
    jobs.run_table("module", {}, {"ours": (0.1, 0.3)}, [], args)
    assert capsys.readouterr().err.count("out of memory") == 2
    assert not args.out.exists()


# --- pages ------------------------------------------------------------------------------------------------------------

JOBS = {
    "tags": (tags, {"base": "minilm", "rows": 1600, "precision": "fp32"}),
    "search": (
        search,
        {"base": "minilm", "task": "mrpc", "rows": 2000, "evaluated": 9, "precision": "fp32", "untuned": None},
    ),
    "labels": (labels, {"base": "minilm", "rows": 5000, "precision": "bf16", "macro_f1": 0.3, "map": 0.25}),
    "chat": (chat, {"base": "gemma", "task": "chat", "rows": 600}),
}


@pytest.mark.parametrize("name", JOBS)
def test_pages_have_a_line_for_each_arm(name, tmp_path, monkeypatch):
    module, job = JOBS[name]
    measured = {"history": [], "trainable": 1000, "memory": 5e8, "epochs": 3}
    arms = list(module.RATES)
    peer = next(arm for arm in arms if "peft lora" in arm)
    records = [
        {**job, **measured, "arm": arm, "lr": 1e-3, "seed": seed, "score": score, "seconds": 10 if arm == peer else 2}
        for arm in arms
        for seed, score in ((jobs.SEARCH_SEED, 0.9), (0, 0.5), (1, 0.6))
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    monkeypatch.setattr(sys, "argv", ["tables", name, str(tmp_path / "in.jsonl"), str(tmp_path / "out.md")])
    tables.main()
    page = (tmp_path / "out.md").read_text()
    header, rule, *lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len(lines) == len(arms) and page.startswith("# ")
    assert {line.count("|") for line in (header, rule, *lines)} == {header.count("|")}
    # Of the table's seeds alone; five times as fast as the peer.
    score = "0.550 ± 0.071" if name == "chat" else "55.0 ± 7.1"
    assert all(score in line for line in lines)
    assert sum("5.0x" in line for line in lines) == len(arms) - 1


def test_depth_alone():
    """In the long run LoRA on half of the blocks is half of the work; a peer and other models have no figure."""
    assert jobs.by_depth("mpnet-base", "peft lora", 9) == jobs.by_depth("mpnet-base", "2/3: full, queries", 9) == "-"
    assert jobs.by_depth("another", "1/2: lora", 9) == "-"
    assert jobs.by_depth("mpnet-base", "lora", 1) == jobs.by_depth("mpnet-base", "lora", 10**6) == "1.0x"
    assert jobs.by_depth("mpnet-base", "1/2: lora", 10**6) == "2.0x" > jobs.by_depth("mpnet-base", "1/2: full", 10**6)


def test_a_sweep_stands_beside_its_peers_runs():
    rates = sweeps.rates_of(sweeps.PEER)
    assert len(set(rates)) == sweeps.TRIALS and (rates[0], rates[-1]) == sweeps.RANGES[sweeps.PEER]
    job = {"base": "minilm", "task": "labels", "rows": 9, "precision": "fp32", "trainable": 1, "memory": 5e8}
    own = {**job, "arm": "2/3: full", "rates": [1e-4, 1e-3], "scores": [0.5, 0.6], "score": 0.6, "seconds": 8}
    peers = [{**job, "arm": sweeps.PEER, "lr": rate, "score": 0.3, "seconds": 5} for rate in rates]
    ours, theirs = sweeps.page([own, *peers]).splitlines()[-2:]
    assert ours == "| `2/3: full` | 1 | 0.001 | 60.0 | 8 | 10.0x | - | 500 |" and "| 30.0 | 80 | 1.0x | - |" in theirs
    assert "| 8 | - |" in sweeps.page([own, *peers[1:]])  # the peer's sweep is not whole


# --- runs -------------------------------------------------------------------------------------------------------------

quiet = pytest.mark.filterwarnings("ignore")  # of the peers


def run(module, arm, model, data, **job):
    """A run of the search, which is the shortest."""
    job = {"arm": arm, "lr": 1e-3, "seed": jobs.SEARCH_SEED, "rows": 6, **job}
    record = module.run_one(job, str(model), str(data))
    assert set(record) >= FIELDS and {key: record[key] for key in job} == job
    assert record["score"] in record["history"] and len(record["history"]) == record["epochs"]
    assert record["trainable"] > 0 and isinstance(record["seconds"], float) and record["memory"] > 0
    json.dumps(record)
    return record


@quiet
@pytest.mark.parametrize("arm", ["1/2: full", *labels.PEERS])
def test_label_sets(arm, tiny_folder, tmp_path):
    if arm in labels.PEERS:
        pytest.importorskip("peft")
    folder = tmp_path / "goemotions"
    folder.mkdir()
    (folder / "labels.txt").write_text("joy\nanger\nneutral\n")
    rows = [f"{text}\t{('0', '1', '0,2')[at % 3]}\tid{at}\n" for at, text in enumerate(WORDS * 2)]
    for part in ("train", "dev"):
        (folder / f"{part}.tsv").write_text("".join(rows))
    assert labels.read_rows(tmp_path, "dev")[2] == {"text": WORDS[2], "labels": ["joy", "neutral"]}
    record = run(labels, arm, tiny_folder("bert", "mlm"), tmp_path, base="tiny", precision="fp32")
    assert all(0 < record[name] <= 1 for name in ("score", *labels.FURTHER))


@quiet
def test_a_sweep(tiny_folder, tmp_path, monkeypatch):
    folder = tmp_path / "goemotions"
    folder.mkdir()
    (folder / "labels.txt").write_text("joy\nanger\n")
    for part in ("train", "dev"):
        (folder / f"{part}.tsv").write_text("".join(f"{text}\t{at % 2}\tid\n" for at, text in enumerate(WORDS)))
    job = {"base": "tiny", "task": "labels", "rows": 6, "precision": "fp32", "seed": 0, "arm": "1/2: full"}
    record = sweeps.run_one({**job, "rates": [1e-4, 1e-3, 1e-2]}, str(tiny_folder("bert", "mlm")), str(tmp_path))
    assert len(record["scores"]) == 3 and record["score"] == max(record["scores"]) and record["seconds"] > 0


@quiet
@pytest.mark.parametrize("arm", ["1/2: lora(rank=8)", "peft lora"])
def test_tags(arm, tiny_folder, tmp_path, monkeypatch):
    if arm in tags.PEERS:
        pytest.importorskip("peft")
    monkeypatch.setattr(tags, "MAX_LENGTH", 32)
    monkeypatch.setattr(tags, "EPOCHS", 1)
    (tmp_path / "wnut17").mkdir()
    tagged = "".join(f"{text.replace(' ', chr(9) + 'O' + chr(10))}\tB-thing\n\n" for text in WORDS)
    for file in tags.FILES.values():
        (tmp_path / "wnut17" / file).write_text(tagged)
    run(tags, arm, tiny_folder("bert", "mlm"), tmp_path, base="tiny", precision="fp32")


@quiet
@pytest.mark.parametrize("arm", ["1/2: full", "peft lora"])
def test_search(arm, tiny_folder, tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers")
    monkeypatch.setattr(search, "MAX_LENGTH", 32)
    folder = tmp_path / "glue" / "STS-B"
    folder.mkdir(parents=True)
    rows = [f"{one}\t{WORDS[at - 1]}\t{at % 6}\n" for at, one in enumerate(WORDS)]
    for part in ("train", "dev"):
        (folder / f"{part}.tsv").write_text("sentence1\tsentence2\tscore\n" + "".join(rows))
    job = {"base": "tiny", "precision": "bf16", "task": "sts-b", "evaluated": 5}
    record = run(search, arm, tiny_folder("bert", "mlm"), tmp_path, **job)
    assert -1 <= record["untuned"] <= 1


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> Path:
    from chats import save_chat_model

    return save_chat_model(tmp_path_factory.mktemp("decoder"), template=None)


@pytest.fixture
def slots(tmp_path) -> Path:
    (tmp_path / "e2e").mkdir()
    lines = [f"food : {text} | area : the city||{WORDS[at - 1]} . \n" for at, text in enumerate(WORDS)]
    for file in chat.FILES.values():
        (tmp_path / "e2e" / f"{file}.txt").write_text("".join(lines))
    return tmp_path


@quiet
@pytest.mark.parametrize("task", chat.TASKS)
@pytest.mark.parametrize("arm", ["2/3: lora", chat.PEER])
def test_chat_and_completion(arm, task, decoder, slots):
    """Under TRL the run itself checks that both sides train on the same tokens."""
    if arm == chat.PEER:
        pytest.importorskip("trl")
    run(chat, arm, decoder, slots, base="tiny", task=task)


@quiet
def test_the_peers_loss_is_that_of_all_of_its_logits(decoder, slots, tmp_path):
    peft = pytest.importorskip("peft")
    import torch
    from transformers import AutoModelForCausalLM

    from stratatune.data.batching import collate
    from stratatune.training.config import validate
    from stratatune.training.prepare import Outline, read_tables, settle

    job = {"task": "chat", "arm": "2/3: lora", "lr": 1e-3, "seed": 0, "rows": 6}
    rows = {part: chat._rows(job, slots, part) for part in chat.FILES}
    outline = Outline(validate({**chat._settings(job, rows, tmp_path), "model": str(decoder)}))
    prepared = settle(outline, read_tables(outline.config, {}, outline.kind))
    base = AutoModelForCausalLM.from_pretrained(decoder)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    batch = collate(prepared.eval, [*range(len(prepared.eval))], prepared.tokenizer.pad_token_id)
    with torch.no_grad():
        expected = model(input_ids=batch.input_ids, attention_mask=batch.mask.long(), labels=batch.labels).loss
    assert chat._measure(model, prepared)() == pytest.approx(expected.item(), rel=0.01)  # in bf16


def test_sides_that_train_on_other_tokens_are_not_compared(decoder, slots, tmp_path):
    from stratatune.training.config import validate
    from stratatune.training.prepare import Outline, read_tables, settle

    job = {"task": "completion", "arm": "mid", "lr": 1e-3, "seed": 0, "rows": 6}
    rows = {part: chat._rows(job, slots, part) for part in chat.FILES}
    outline = Outline(validate({**chat._settings(job, rows, tmp_path), "model": str(decoder)}))
    own = settle(outline, read_tables(outline.config, {}, outline.kind)).train
    starts, targets = own.offsets, own.targets["label"].values
    theirs = [
        {"input_ids": own.ids[start:end].tolist(), "labels": targets[start:end].tolist()}
        for start, end in zip(starts[:-1], starts[1:], strict=True)
    ]
    chat.check_same_tokens(own, theirs)
    with pytest.raises(ValueError, match="one side has 6 rows, the other 5"):
        chat.check_same_tokens(own, theirs[1:])
    theirs[3]["labels"][0] = theirs[3]["input_ids"][0]
    with pytest.raises(ValueError, match="row 3: the two sides train on different tokens"):
        chat.check_same_tokens(own, theirs)
