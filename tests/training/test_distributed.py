"""Two processes that train one model give the numbers of one process with the same batches."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import forked
from runs import rows
from stratatune.cache.folders import verify_cache
from stratatune.cache.shards import read_identity, read_shards
from stratatune.progress import Reporter
from stratatune.training import distributed
from stratatune.training.build import build_cache
from stratatune.training.config import to_yaml

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "stratatune")
# With --cpu accelerate starts one process, unless through MPI; --multi_gpu starts two, and here they find no GPU.
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
ACCELERATE += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "stratatune")
SCRIPT = Path(__file__).with_name("verbs_together.py")
FORKED = (str(SCRIPT),)
"""The processes that torchrun would start, with what it would say to them, forked: they need not import torch."""
HANGS = 1800  # seconds after which a process is given up, however slow the machine


@pytest.fixture
def launch(tmp_path):
    """``launch(config, more=["--resume"])``: two processes on the CPU, under way."""

    def started(*configs, more=(), by=TORCHRUN, verb=("train",), then=()):
        line = [*by]
        for number, config in enumerate(configs):
            path = tmp_path / f"run{number}.yaml"
            path.write_text(to_yaml(config))
            line += [*(["--then"] if number else []), *verb, str(path), "--json", "--quiet", *more]
        line += then
        if by == FORKED:
            return Ranks(line, tmp_path)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen([sys.executable, "-m", *line], stdout=subprocess.PIPE, env=environment, text=True)

    return started


class Ranks:
    """Two forked processes that train together, as one; what they say is what the first one says."""

    def __init__(self, line, folder):
        self.ranks = forked.together(line, folder)

    def poll(self):
        return next((code for one in self.ranks if (code := one.poll()) is not None), None)

    def kill(self):
        for one in self.ranks:
            one.kill()
        for one in self.ranks:
            one.wait()

    def communicate(self, timeout):
        said = [one.communicate(timeout) for one in self.ranks]
        assert [one.returncode for one in self.ranks] == [0, 0], said
        assert said[1][0] == ""
        return said[0]

    @property
    def returncode(self):
        return max(one.returncode for one in self.ranks)


def same(one, two, within=1e-6):
    """Two run folders: the same history and the same tensors, up to the order in which numbers were summed."""
    histories = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, two)]
    assert len(histories[0]) == len(histories[1])
    for left, right in zip(*histories, strict=True):
        assert left == pytest.approx(right, abs=within)
    left, right = (load_file(run / "adapter" / "adapter.safetensors") for run in (one, two))
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=within)


UNDROPPED = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
PLAIN = {"plan": "bft-adapter@2", "batch_size": 9, "train_samples": 47, "accumulate": 2}
"""47 examples in batches of 9: shards of 5 and 4, a last batch of 2."""
FITTED = {"plan": "2: lora", "batch_size": 9, "train_samples": 47, "epochs": 2}
CASES = {
    "resident": {**PLAIN, "epochs": 4},
    "streamed": {**PLAIN, "epochs": 4, "trunk": "streamed"},
    "within": {**PLAIN, "epochs": 2, "eval_every": 1 / 3},
    # The last batch of the data has one example, fewer than processes: both learn from it, and it counts once.
    "one": {**PLAIN, "epochs": 4, "train_samples": 46, "accumulate": 3},
    # One fit of the output layer over all ranks' examples, of a last batch that does not share out evenly too.
    "multitask": {**FITTED, "objective": "multitask", "label": "label,score"},
    "uncached": {**FITTED, "objective": "multilabel", "label": "label", "cache": "off"},
    "asked-for": {**FITTED, "objective": "classification", "label": "label", "head_start": "fitted"},
}


def test_the_numbers_of_one_process(run, settings, launch, tiny_folder, tmp_path):
    """One launch trains them all, one after the other; its first process then scores alone."""
    model = str(tiny_folder("bert", "mlm", **UNDROPPED))
    alone, asked = {}, {}
    for name, case in CASES.items():
        own = {"model": model, "out": str(tmp_path / "alone" / name), **case, "trunk": "resident"}
        alone[name] = run(**{"cache": "ram", **own})
        kept = case.get("cache", str(tmp_path / "cache" / name))
        asked[name] = settings(**{"model": model, **case, "cache": kept, "out": str(tmp_path / "together" / name)})
    scored = ("--first", "eval", str(tmp_path / "together" / "resident"), "--data", asked["resident"].eval, "--json")
    processes = launch(*asked.values(), by=TORCHRUN[:-2] + (str(SCRIPT),), then=(*scored, "--device", "cpu"))
    *answers, score = decoded(processes.communicate(timeout=HANGS)[0])
    assert processes.returncode == 0 and len(answers) == len(CASES)
    assert score["metrics"]["accuracy"] == alone["resident"].best["accuracy"]
    for (name, case), answer in zip(CASES.items(), answers, strict=True):
        # Correlations of 21 texts move ten times as far as the losses do.
        within = 1e-5 if case["plan"] == "2: lora" else 1e-6
        assert answer["best"] == pytest.approx(alone[name].best, abs=within), name
        assert answer["cache_hit"] == ("cache" not in case), name
        assert (answer["processes"], alone[name].processes) == (2, 1)
        same(tmp_path / "alone" / name, tmp_path / "together" / name, within)


@pytest.mark.parametrize(("by", "killed"), [(FORKED, True), (ACCELERATE, False)], ids=["killed", "accelerate"])
def test_the_numbers_of_one_process_by(run, settings, launch, tiny_folder, tmp_path, by, killed):
    """By another launcher; also killed half-way, all at once, and resumed."""
    # Enough epochs to be killed in their midst.
    changes = {**PLAIN, "model": str(tiny_folder("bert", "mlm", **UNDROPPED)), "epochs": 20 if killed else 4}
    alone = run(**changes, out=str(tmp_path / "alone"))
    out = tmp_path / "together"
    config = settings(**changes, cache=str(tmp_path / "cache"), out=str(out))
    processes = launch(config, by=by)
    if killed:
        while processes.poll() is None and not (out / "checkpoint.safetensors").exists():
            time.sleep(0.01)
        processes.kill()
        assert not (out / "result.json").exists()
        processes = launch(config, more=["--resume"], by=by)
    answer = json.loads(processes.communicate(timeout=HANGS)[0])
    assert processes.returncode == 0
    assert answer["best"] == pytest.approx(alone.best, abs=1e-6)
    assert answer["cache_hit"]
    assert (answer["processes"], alone.processes) == (2, 1)
    same(tmp_path / "alone", out)


def test_caches_built_by_two_processes_are_those_of_one(settings, launch, tmp_path):
    """Each runs the trunk over its share of what is lacking, and writes a part that becomes one cache.

    One launch builds them all, one after the other. What accelerate starts builds the cache of its run above.
    """
    cases = {"fp32": {"cache_dtype": "fp32"}, "int8": {"cache_dtype": "int8"}, "streamed": {"trunk": "streamed"}}
    asked = {name: settings(plan="bft-adapter@2", cache=str(tmp_path / name), **case) for name, case in cases.items()}
    processes = launch(*asked.values(), by=FORKED, verb=("cache", "build"))
    answers = iter(decoded(processes.communicate(timeout=HANGS)[0]))
    assert processes.returncode == 0
    texts = [len({row["text"] for row in rows(count, seed)}) for count, seed in ((48, 0), (21, 1))]
    for name, case in cases.items():
        records = next(answers)["caches"]
        assert [record["computed"] for record in records] == texts, "every distinct text once, by one of the two"
        own = {**case, "trunk": "resident"}  # a streamed trunk says what one in memory says
        alone = build_cache(
            settings(plan="bft-adapter@2", cache=str(tmp_path / f"{name}-alone"), **own), Reporter(quiet=True)
        )
        for one, two in zip(records, alone["caches"], strict=True):
            assert one["digest"] == two["digest"] and one["bytes"] == two["bytes"]
            folder = Path(one["folder"])
            assert rows_of(folder) == rows_of(Path(two["folder"]))
            assert verify_cache(folder) == [] and not list(folder.glob("rank-*"))


def decoded(text):
    """The JSON values that stand one after the other in ``text``."""
    decoder, at = json.JSONDecoder(), 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        value, at = decoder.raw_decode(text, at)
        yield value


def rows_of(folder):
    """The examples of a cache and all its rows, in no order: two builds may shard them as they like."""
    identity = read_identity(folder)
    found = read_shards(folder, identity, verify=True)[0]
    rows = [np.fromfile(shard.path, np.uint8).reshape(-1, identity.row_bytes) for shard in found]
    examples = np.concatenate([shard.examples for shard in found])
    return sorted(examples.tolist()), sorted(map(bytes, np.concatenate(rows)))


def test_a_launcher_that_started_one_process_is_told_of(monkeypatch):
    """As ``accelerate launch --cpu --num_processes 2`` leaves the environment."""
    for name in ("WORLD_SIZE", "ACCELERATE_USE_CPU", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.left_alone() == ""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert distributed.left_alone() == ""  # one was asked for
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert "started one process" in distributed.left_alone()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert distributed.left_alone() == ""


def test_shares(monkeypatch):
    """Every example of a batch is some rank's, once; a batch too small for all is everybody's."""
    batches = [np.arange(9), np.arange(9, 11), np.arange(11, 12)]
    monkeypatch.setattr(distributed, "world", lambda: 2)
    parts = []
    for number in range(2):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        parts.append(distributed.mine(batches))
    assert [sorted(np.concatenate(pair).tolist()) for pair in list(zip(*parts, strict=True))[:2]] == [
        list(range(9)),
        [9, 10],
    ]
    assert [part[2].tolist() for part in parts] == [[11], [11]]


def test_tops_of_their_own_train_in_one_process(settings, monkeypatch):
    from stratatune.errors import ConfigError
    from stratatune.training.run import train

    for name, value in {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    asked = settings(objective="multitask(tops=label|score)", label="label,score", plan="2: lora")
    with pytest.raises(ConfigError, match="trains in one process"):
        train(asked, reporter=Reporter(quiet=True))
