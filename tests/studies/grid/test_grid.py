"""Grids on this machine: each run once, caches built once, failures kept, what is killed goes on."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

import forked
import gridding
from stratatune.app.cli import run as command
from stratatune.cache.folders import list_caches
from stratatune.errors import ConfigError
from stratatune.model.saving import read_record
from stratatune.progress import Reporter
from stratatune.studies.grid import engines
from stratatune.studies.grid import grid as grids
from stratatune.studies.grid.book import Store
from stratatune.studies.grid.contents import changed, contents_of
from stratatune.studies.grid.expand import expand
from stratatune.studies.grid.grid import grid_lock
from stratatune.studies.grid.recipe import load_recipe
from stratatune.studies.grid.records import read_caches, read_records, run_id
from stratatune.studies.report import report_on, text_of
from stratatune.studies.suggest.auto import train
from stratatune.training.config import CHOSEN_BY_AUTO, RunConfig, load_config, validate


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STRATATUNE_CACHE", str(tmp_path / "caches"))


@pytest.fixture
def say(capsys):
    """``say("grid", ...)``: exit code, standard output as JSON, standard error."""

    def said(*arguments):
        capsys.readouterr()
        code = command([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out), err

    return said


def test_a_grid_from_first_to_last(tmp_path, say, monkeypatch):
    recipe, out = gridding.write_recipe(tmp_path), tmp_path / "grid"
    code, answer, _ = say("grid", recipe, "--dry-run")
    assert (code, answer["trunks"], len(answer["runs"])) == (0, 1, 4)
    assert not out.exists()

    code, answer, err = say("grid", recipe, "--out", out, "--jobs", 2)
    assert (code, answer["ran"], answer["skipped"], answer["failed"]) == (0, 4, 0, []), err
    assert answer["caches"] == 2  # of the training and of the evaluation data

    _, again, _ = say("grid", recipe, "--out", out)
    assert (again["ran"], again["skipped"], again["caches"]) == (0, 4, 0)

    asked, records = read_records(out)
    assert asked.title == "tiny"
    (built,) = read_caches(out)
    assert (built["depth"], len(built["caches"])) == (2, 2)
    assert "2 of 2 done" in (out / "report.html").read_text()
    assert all(one.status == "done" and one.result["cache_hit"] for one in records)
    assert [one.coordinates["plan"] for one in records] == ["bft-adapter@2"] * 2 + ["lpt@2"] * 2
    assert all(gridding.epochs_of(one.folder) == [1] for one in records)
    assert all(one.environment["libraries"]["torch"] for one in records)
    assert all(info.complete for info in list_caches(tmp_path / "caches"))

    _, rows, _ = say("grid", "ls", out)
    assert {row["status"] for row in rows} == {"done"}
    _, shown, _ = say("grid", "show", out, records[0].id[:6])
    assert shown["result"] == records[0].result
    table = tmp_path / "runs.parquet"
    assert say("grid", "export", out, "--out", table)[1]["n"] == 4
    from pyarrow import parquet

    assert parquet.read_table(table)["best_accuracy"].to_pylist() == [one.result["best"]["accuracy"] for one in records]

    _, removed, _ = say("grid", "rm", out, records[0].id)
    assert removed == {"removed": [records[0].id]} and not records[0].folder.exists()
    monkeypatch.setattr(engines, "LocalEngine", gridding.Inline)
    assert say("grid", recipe, "--out", out, "--only", "seed=0")[1]["ran"] == 1


def test_runs_of_a_recipe_that_was_changed_are_in_no_mean(tmp_path, say, monkeypatch, capsys):
    """The same coordinates under other settings are not more seeds; `--only` leaves the rest of the recipe its own."""
    monkeypatch.setattr(engines, "LocalEngine", gridding.Inline)
    out = tmp_path / "grid"
    before = gridding.write_recipe(tmp_path, plans=["lpt@2"])
    assert say("grid", before, "--out", out)[1]["earlier"] == 0
    old = {record.id for record in read_records(out)[1]}

    after = gridding.write_recipe(tmp_path, plans=["lpt@2"], base={"epochs": 2})
    for seed, there in ((0, 1), (1, 2)):
        code, answer, err = say("grid", after, "--out", out, "--only", f"seed={seed}")
        assert (code, answer["ran"], answer["earlier"]) == (0, 1, 2), err
        records = read_records(out)[1]
        assert len(records) == there and old.isdisjoint(one.id for one in records)
    said = "2 runs of earlier settings are left out; grid ls lists them"
    assert command(["grid", str(after), "--out", str(out)]) == 0 and said in capsys.readouterr().err
    assert "2 runs of earlier settings are left out; grid ls lists them." in text_of(report_on(out), "md")
    assert {row["id"] for row in say("grid", "ls", out)[1] if not row["current"]} == old
    assert command(["grid", "ls", str(out)]) == 0 and "2 of earlier settings" in capsys.readouterr().err
    assert say("grid", "export", out, "--out", tmp_path / "runs.csv")[1]["n"] == 2
    assert {row["status"] for row in say("grid", after, "--out", out, "--dry-run")[1]["runs"]} == {"done"}


def test_what_fails_does_not_stop_the_rest(tmp_path, say, monkeypatch):
    """A run with a mistake, and one whose process is killed each time it is begun; the third is as if it were alone."""
    (tmp_path / "dying.py").write_text(
        "import os\n"
        "import stratatune.studies.grid.worker as worker\n"
        "def work(job, work=worker.work):\n"
        "    if job['config']['seed'] == 1: os.kill(os.getpid(), 9)\n"
        "    return work(job)\n"
        "worker.work = work\n"
        "if __name__ == '__main__': worker.main()\n"
    )
    monkeypatch.setattr(engines, "COMMAND", (sys.executable, str(tmp_path / "dying.py")))
    plans = [{"name": "bad", "plan": "lpt@2", "template": "<mask> {c}"}, "bft-adapter@2"]
    pairs = [{"plan": "bad", "seed": 0}, {"plan": "bft-adapter@2"}]
    recipe, out = gridding.write_recipe(tmp_path, plans=plans, pairs=pairs), tmp_path / "grid"

    code, answer, err = say("grid", recipe, "--out", out)
    assert (code, answer["ran"], len(answer["failed"])) == (1, 3, 2)
    mistake, killed = (one["error"] for one in answer["failed"])
    assert "{c}" in mistake and "\n" not in mistake and mistake in err
    assert "killed by signal 9" in killed and killed.endswith("3 times")
    assert err.count("it continues from its checkpoint") == 2
    assert "Traceback" in (out / "runs" / answer["failed"][0]["id"] / "error.txt").read_text()

    code, answer, _ = say("grid", recipe, "--out", out)
    assert (code, answer["ran"], answer["skipped"], len(answer["failed"])) == (1, 0, 1, 2)
    monkeypatch.setattr(engines, "LocalEngine", gridding.Inline)
    code, answer, _ = say("grid", recipe, "--out", out, "--retry-failed", "--only", "plan=bad")
    assert (code, answer["ran"], answer["skipped"], len(answer["failed"])) == (1, 1, 0, 1)
    assert len(say("grid", "rm", out, "--failed")[1]["removed"]) == 2


def test_data_that_changed_since_runs_read_them(tmp_path, say, monkeypatch):
    monkeypatch.setattr(engines, "LocalEngine", gridding.Inline)
    recipe, out = gridding.write_recipe(tmp_path, seeds=[0]), tmp_path / "grid"
    data = tmp_path / "data" / "train.csv"
    assert say("grid", recipe, "--out", out)[1]["stale"] == {}
    before = data.read_text()
    os.utime(data, (1, 1))  # the same contents at another time
    assert say("grid", recipe, "--out", out)[1]["stale"] == {}
    data.write_text(before.replace("great", "grand"))
    _, answer, err = say("grid", recipe, "--out", out, "--only", "plan=lpt@2")
    assert [len(runs) for runs in answer["stale"].values()] == [1] and list(answer["stale"]) == [str(data)]
    assert f"{data} has changed since 1 finished run read it" in err and "--changed" in err
    assert (answer["ran"], answer["skipped"]) == (0, 1)
    assert len(say("grid", "rm", out, "--changed")[1]["removed"]) == 2
    assert say("grid", "rm", out, "--changed")[1]["removed"] == []
    _, answer, _ = say("grid", recipe, "--out", out)
    assert (answer["ran"], answer["stale"]) == (2, {})
    data.unlink()  # results stay without their data
    with Store.open(out) as store:
        assert grids.stale(store, [row["id"] for row in store.runs()]) == {}
        store.tell(**{f"read by {store.runs()[0]['id']}": '{"a": 1}'})
        with pytest.raises(ConfigError, match="is not a record of files"):
            store.contents()


def test_contents_of_every_kind_of_source(tmp_path):
    for name in ("a.csv", "b.csv", "folder/train.tsv", "folder/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = contents_of({"train": f"{tmp_path}/*.csv", "eval": str(tmp_path / "folder"), "test": "hub/name", "seed": 1})
    assert [Path(one).name for one in found] == ["a.csv", "b.csv", "train.tsv"] and changed(found) == []
    (tmp_path / "b.csv").write_text("other")
    assert changed(found) == [str(tmp_path / "b.csv")]
    assert contents_of({"train": f"{tmp_path}/*.none", "eval": "a\0b", "model": "hub/name", "start_from": "a\0b"}) == {}


def test_a_model_that_changed_under_its_name(tmp_path, say, monkeypatch):
    monkeypatch.setattr(engines, "LocalEngine", gridding.Inline)
    recipe, out = gridding.write_recipe(tmp_path, seeds=[0], plans=["1: lora"]), tmp_path / "grid"
    weights = tmp_path / "models" / "tiny" / "model.safetensors"
    (weights.parent / "checkpoint-1").mkdir()
    (weights.parent / "checkpoint-1" / "model.safetensors").write_bytes(b"of another model")
    (weights.parent / "README.md").write_text("a new card")
    assert say("grid", recipe, "--out", out)[1]["stale"] == {}
    (weights.parent / "checkpoint-1" / "model.safetensors").write_bytes(b"of a later one")
    (weights.parent / "README.md").write_text("a card")
    assert say("grid", recipe, "--out", out)[1]["stale"] == {}
    save_file({name: 2 * one for name, one in load_file(weights).items()}, weights, {"format": "pt"})
    assert list(say("grid", recipe, "--out", out)[1]["stale"]) == [str(weights)]
    assert len(say("grid", "rm", out, "--changed")[1]["removed"]) == 1
    assert say("grid", recipe, "--out", out)[1]["ran"] == 1


@pytest.mark.parametrize("inside", ["", "adapter"])
def test_a_run_to_start_from_that_changed(tmp_path, inside):
    adapter = tmp_path / "run" / inside / "adapter.safetensors"
    adapter.parent.mkdir(parents=True)
    adapter.write_bytes(b"1")
    found = contents_of({"start_from": str(tmp_path / "run")})
    adapter.write_bytes(b"2")
    assert changed(found) == [str(adapter)]


def test_every_run_of_a_recipe_starts_from_another(tmp_path, say, monkeypatch):
    monkeypatch.setattr(engines, "LocalEngine", gridding.Inline)
    plain = expand(load_recipe(gridding.write_recipe(tmp_path, plans=["1: lora"])), tmp_path)
    assert all(run_id({k: v for k, v in one.settings.items() if k != "start_from"}) == one.id for one in plain)
    first = train(plain[0].config.model_copy(update={"out": str(tmp_path / "first")}), reporter=Reporter(quiet=True))

    # The path is relative to the recipe's file, and the plan that no run has is that of the first.
    recipe, out = gridding.write_recipe(tmp_path, base={"start_from": "first"}), tmp_path / "grid"
    recipe.write_text(yaml.safe_dump({k: v for k, v in yaml.safe_load(recipe.read_text()).items() if k != "plans"}))
    assert say("grid", recipe, "--out", out)[1]["ran"] == 2
    records = read_records(out)[1]
    assert {one.config["plan"] for one in records} == {first.plan} and not {one.id for one in plain} & {
        one.id for one in records
    }
    adapters = [read_record(one.folder / "adapter") for one in records]
    digest = read_record(Path(first.out) / "adapter")["checksums"]["tensors"]
    assert {one["started_from"]["tensors"] for one in adapters} == {digest}

    # Once the first run is gone, a finished grid has nothing left to do, and a run that is left says what it lacks.
    (tmp_path / "first").rename(tmp_path / "gone")
    code, answer, _ = say("grid", recipe, "--out", out)
    assert (code, answer["ran"], answer["skipped"], answer["earlier"]) == (0, 0, 2, 0)
    assert say("grid", recipe, "--out", out, "--only", "seed=0")[1]["earlier"] == 0
    recipe.write_text(recipe.read_text().replace("- 1\n", "- 7\n"))
    with pytest.raises(ConfigError, match="start_from: 'first'; there is no such folder"):
        expand(load_recipe(recipe), tmp_path, done=[one.config for one in records])
    (tmp_path / "gone").rename(tmp_path / "first")

    recipe = gridding.write_recipe(tmp_path, plans=["auto", "1: lora"], base={"start_from": "first"})
    with pytest.raises(ConfigError, match="plan: auto is chosen for the base model; leave out plan"):
        expand(load_recipe(recipe), tmp_path)


def test_an_automatic_run_is_the_one_that_train_makes(tmp_path, say, monkeypatch):
    """What the recipe leaves open is left to the run, and stays open in the book; what it gives makes another run."""
    jobs, start = [], gridding.Inline.start
    monkeypatch.setattr(gridding.Inline, "start", lambda self, job: (jobs.append(job), start(self, job)))
    monkeypatch.setattr(engines, "LocalEngine", gridding.Inline)
    recipe, out = gridding.write_recipe(tmp_path, plans=["auto"], seeds=[0]), tmp_path / "grid"
    assert say("grid", recipe, "--out", out)[1]["ran"] == 1
    (job,), (record,) = jobs, read_records(out)[1]
    assert {"epochs"} == {*CHOSEN_BY_AUTO} & job["config"].keys() == {*CHOSEN_BY_AUTO} & record.config.keys()
    assert "weight_decay" in record.config.keys() - job["config"].keys()

    alone = tmp_path / "alone"
    train(validate({**job["config"], "out": str(alone)}), reporter=Reporter(quiet=True))
    chosen, usual = (load_config(run / "config.yaml") for run in (record.folder, alone))
    assert [name for name in usual if usual[name] != chosen[name]] == ["out", "resume"]
    assert (chosen["epochs"], chosen["early_stopping"], chosen["head_start"]) == (1, 2, "fitted")

    given = gridding.write_recipe(
        tmp_path, plans=["auto"], seeds=[0], base={"lr": RunConfig.model_fields["lr"].default}
    )
    (other,) = expand(load_recipe(given), tmp_path)
    assert other.id != record.id


def test_killed_and_begun_again(tmp_path):
    """SIGKILL at any moment: book, run folders and caches come out like those of a grid that was never killed."""
    recipe = gridding.write_recipe(tmp_path, seeds=[0, 1, 2], base={"epochs": 2})
    out, kills = tmp_path / "grid", 0
    line = ["-m", "stratatune", "grid", str(recipe), "--out", str(out), "--json"]
    for done_before_kill in (0, 2):
        grid = forked.start(line, tmp_path)
        while grid.poll() is None and _done(out) <= done_before_kill:
            time.sleep(0.02)
        kills += grid.poll() is None
        os.killpg(grid.pid, signal.SIGKILL)
        grid.wait()
    assert kills == 2
    finished = {record.id: (record.folder / "result.json").stat().st_mtime_ns for record in _finished(out)}
    grid = forked.start(line, tmp_path)
    answer = json.loads(grid.communicate()[0])
    assert grid.returncode == 0
    assert answer["ran"] + answer["skipped"] == 6 and not answer["failed"]
    _, records = read_records(out)
    assert {record.status for record in records} == {"done"}
    assert all(gridding.epochs_of(record.folder) == [1, 2] for record in records)
    assert all(record.result["cache_hit"] for record in records)
    assert all((out / "runs" / name / "result.json").stat().st_mtime_ns == at for name, at in finished.items())
    assert len(list_caches(tmp_path / "caches")) == 2


def _finished(out):
    return [record for record in read_records(out)[1] if record.status == "done"]


def _done(out):
    return len(list(out.glob("runs/*/result.json")))


def test_one_process_at_a_time(tmp_path, say):
    recipe, out = gridding.write_recipe(tmp_path), tmp_path / "grid"
    with grid_lock(out):
        code, answer, err = say("grid", recipe, "--out", out)
    assert code == 2
    assert "another process is working on this grid" in answer["error"]["message"]
    assert err.count("error:") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["grid", "{recipe}"], "--out is missing"),
        (["grid", "{recipe}", "--out", "g", "--engine", "loca"], "--engine 'loca'"),
        (["grid", "{recipe}", "--out", "g", "--address", "x"], "only the engine ray has an address"),
        (["grid", "{recipe}", "--out", "g", "--jobs", "0"], "--jobs 0"),
        (["grid", "{recipe}", "--only", "seed"], "--only seed: write AXIS=NAME"),
        (["grid", "no.yaml", "--out", "g"], "no.yaml: no such file"),
        (["grid", "ls", "nowhere"], "nowhere: is not a grid folder"),
        (["grid", "rm", "{grid}"], "no runs were named"),
        (["grid", "show", "{grid}", "zz"], "0 runs of"),
        (["grid", "export", "{grid}", "--out", "x.xls"], "--format 'xls'"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(tmp_path, say, arguments, said):
    recipe = gridding.write_recipe(tmp_path)
    Store.create(tmp_path / "grid").close()
    named = [one.format(recipe=recipe, grid=tmp_path / "grid") for one in arguments]
    code, answer, err = say(*named)
    assert code == 2
    assert said in answer["error"]["message"]
    assert err.count("error:") == 1 and "Traceback" not in err
