"""Reading runs back, and the book of a grid."""

import json
import sqlite3

import pytest

from stratatune.errors import ConfigError
from stratatune.studies.grid.book import FILE, Store
from stratatune.studies.grid.records import compared, read_records, run_id
from stratatune.training.config import RunConfig, to_yaml

RECIPE = {"title": "t", "plans": ["lpt"]}
SETTINGS = {"model": "m", "plan": "lpt", "train": "t.csv"}
COUNTS = ("frozen_depth", "backprop_blocks", "trainable", "total", "best_epoch", "epochs", "peak_memory_bytes")
RESULT = {
    **dict.fromkeys(COUNTS, 1),
    "best": {"accuracy": 0.5},
    "test": {},
    "seconds": {"cache": 0.0, "train": 1.0, "eval": 0.5},
    "tokens_per_second": 10.0,
    "cache_hit": False,
}


@pytest.fixture
def grid(tmp_path):
    """A book of two runs, one done and one waiting."""
    with Store.create(tmp_path / "grid") as store:
        store.tell(recipe=json.dumps(RECIPE))
        store.plan(
            {
                "id": str(number),
                "number": number,
                "coordinates": {"seed": number},
                "config": {**SETTINGS, "seed": number},
            }
            for number in (1, 0)
        )
        store.started("1", {})
        store.stopped("1", "done", result=RESULT)
    return tmp_path / "grid"


def test_a_grid_folder(grid):
    folder = grid / "runs" / "1"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "step": 3}\n{"epoch": 2, "step": 6}\n')
    recipe, records = read_records(grid)
    assert recipe is not None and recipe.title == "t"
    assert [(one.id, one.status, one.coordinates) for one in records] == [
        ("0", "waiting", {"seed": 0}),
        ("1", "done", {"seed": 1}),
    ]
    assert records[1].result == RESULT
    assert records[1].history == [{"epoch": 1, "step": 3}, {"epoch": 2, "step": 6}]
    assert str(folder / "config.yaml") in records[1].command


def test_a_run_folder(tmp_path):
    config = RunConfig(model="m/base", train="data/films.csv", seed=3)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    recipe, (record,) = read_records(tmp_path)
    assert recipe is None
    assert record.status == "stopped"  # no living process is at it
    assert record.coordinates == {"model": "base", "plan": "auto", "task": "films", "seed": 3}
    assert record.id == run_id(config.model_dump(mode="json"))
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    assert read_records(tmp_path)[1][0].status == "done"


def write_run(folder, **settings):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        to_yaml(RunConfig(**{"model": "m/base", "train": "data/films.csv", **settings}))
    )


def test_a_folder_of_run_folders(tmp_path):
    for seed in (0, 1):
        for rate in (1e-3, 1e-2):
            write_run(tmp_path / f"{seed}-{rate}", seed=seed, lr=rate, out=f"{seed}-{rate}", text=("a", "b"))
    (tmp_path / "other").mkdir()
    recipe, records = read_records(tmp_path)
    assert recipe is None
    usual = {"model": "base", "plan": "auto", "task": "films"}
    assert [one.coordinates for one in records] == [
        {**usual, "seed": seed, "lr": rate} for seed in (0, 1) for rate in (1e-3, 1e-2)
    ]


def test_runs_that_are_compared_differ_by_name(tmp_path):
    write_run(tmp_path / "one", text=("a",), precision="fp32", train="old/films.csv")
    write_run(tmp_path / "two", early_stopping=3, train="new/films.csv")
    one, two = (one.coordinates for one in read_records(tmp_path)[1])
    assert (one["text"], two["text"]) == ("a", "none")
    assert (one["early_stopping"], two["early_stopping"]) == (0, 3)
    assert (one["train"], two["train"]) == ("old/films.csv", "new/films.csv")  # both tasks are called films
    write_run(tmp_path / "three", train="books.csv")
    assert {record.coordinates["task"] for record in read_records(tmp_path)[1]} == {"films", "books"}
    two, three = (read_records(tmp_path / name)[1][0] for name in ("two", "three"))
    assert "train" not in compared([two, three])[0].coordinates  # the task says it


def test_the_id_leaves_out_what_changes_no_number():
    config = RunConfig(model="m", train="t").model_dump(mode="json")
    assert run_id({**config, "out": "elsewhere", "cache": "ram", "resume": True, "loggers": ["aim"]}) == run_id(config)
    assert run_id({**config, "lr": 0.5}) != run_id(config)


def test_planning_again_keeps_what_was_done(grid):
    with Store.create(grid) as store:
        store.plan([{"id": "1", "number": 7, "coordinates": {"seed": "one"}, "config": SETTINGS}])
        row = store.runs()[-1]
    assert (row["number"], row["coordinates"], row["status"], row["starts"]) == (7, {"seed": "one"}, "done", 1)
    assert row["config"] == {**SETTINGS, "seed": 1}


def test_runs_that_the_recipe_no_longer_makes_are_left_out(grid):
    assert len(read_records(grid)[1]) == 2  # a book that does not say what belongs
    with Store.create(grid) as store:
        store.belong(["1"])
    assert [one.id for one in read_records(grid)[1]] == ["1"]
    assert [(one.id, one.current) for one in read_records(grid, earlier=True)[1]] == [("0", False), ("1", True)]
    with Store.create(grid) as store:
        store.tell(runs='["../1"]')
    with pytest.raises(ConfigError, match="is not a list of ids"):
        read_records(grid)


def test_a_book_that_was_killed_before_it_was_begun(tmp_path):
    (tmp_path / FILE).touch()
    with Store.create(tmp_path) as store:
        assert store.runs() == []


def test_another_version(grid):
    with sqlite3.connect(grid / FILE) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    for opening in (Store.open, Store.create, read_records):
        with pytest.raises(ConfigError, match="is of version 99; this stratatune reads 1"):
            opening(grid)


def test_no_grid(tmp_path):
    with pytest.raises(ConfigError, match="neither a run folder nor a grid folder"):
        read_records(tmp_path)
    (tmp_path / FILE).write_text("no database" * 100)
    with pytest.raises(ConfigError, match="file is not a database"):
        read_records(tmp_path)
    with sqlite3.connect(tmp_path / "other") as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    (tmp_path / "other").replace(tmp_path / FILE)
    with pytest.raises(ConfigError, match="is not a grid of stratatune"):
        Store.create(tmp_path)


def test_a_damaged_file(tmp_path):
    (tmp_path / "config.yaml").write_text("model: m\ntrain: t\n")
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(ConfigError, match=r"result\.json"):
        read_records(tmp_path)


def test_a_count_does_not_hide_an_axis_of_its_name(tmp_path):
    from dataclasses import replace

    from stratatune.studies.grid.runs_table import row_of

    write_run(tmp_path / "one")
    (found,) = read_records(tmp_path / "one")[1]
    row = row_of(replace(found, coordinates={"epochs": 6}, result={"epochs": 2, "trainable": 5}))
    assert (row["epochs"], row["result_epochs"], row["trainable"]) == (6, 2, 5)


def test_every_field_of_a_result_is_checked_when_it_is_read():
    """But for the tables by class, whose form is each objective's."""
    from dataclasses import fields

    from stratatune.studies.grid.rows import Outcome
    from stratatune.training.result import Result

    assert {one.name for one in fields(Result)} - {"by_class"} <= Outcome.model_fields.keys()
