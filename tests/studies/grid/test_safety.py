"""A grid deletes nothing outside its folder, imports nothing of the user's, and can be read whatever became of it."""

from __future__ import annotations

import json
import sqlite3
import sys

import pytest

import forked
from stratatune.app.cli import run as command
from stratatune.errors import ConfigError, ResourceError
from stratatune.locks import hold
from stratatune.studies.grid import book, engines
from stratatune.studies.grid.book import FILE, LOCK, Store
from stratatune.studies.grid.grid import remove_runs
from stratatune.studies.grid.inherit import folder_of
from stratatune.studies.grid.records import read_records


def planned(*ids):
    return [{"id": one, "number": n, "coordinates": {}, "config": CONFIG} for n, one in enumerate(ids)]


CONFIG = {"model": "m", "train": "t", "plan": "lora", "seed": 0}


@pytest.fixture
def grid(tmp_path):
    """A grid of the runs ``aa`` and ``bb`` with their folders, and a folder beside it that must stay."""
    out = tmp_path / "grid"
    with Store.create(out) as opened:
        opened.plan(planned("aa", "bb"))
        opened.started("aa", {})
    for run in ("aa", "bb"):
        (out / "runs" / run).mkdir(parents=True)
        (out / "runs" / run / "log.txt").touch()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "work.txt").write_text("years of it")
    return out


def wrong(grid, name):
    """The book with ``name`` in the place of the run ``bb``."""
    with sqlite3.connect(grid / FILE) as connection:
        connection.execute("UPDATE runs SET id = ? WHERE id = 'bb'", (name,))
    connection.close()


ESCAPES = ["", ".", "..", "../../precious", "/", "{precious}", "aa/../../../precious", "a\0b", "x" * 65, "é", "a b"]


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("arguments", [["--all"], ["aa"], ["--failed"]])
def test_an_id_that_leads_elsewhere_is_refused_where_the_book_is_read(grid, tmp_path, capsys, name, arguments):
    wrong(grid, name.format(precious=tmp_path / "precious"))
    assert command(["grid", "rm", str(grid), *arguments, "--json"]) == 2
    out, err = capsys.readouterr()
    assert "is not a run id" in json.loads(out)["error"]["message"] and err.count("error:") == 1
    assert (tmp_path / "precious" / "work.txt").exists() and (grid / "runs" / "aa" / "log.txt").exists()


@pytest.mark.parametrize("write", ["tell", "plan", "started", "stopped", "cached", "forget"])
def test_what_cannot_be_written_is_one_line(grid, write):
    given = {"tell": [], "plan": [planned("cc")], "started": ["aa", {}], "stopped": ["aa", "done"]}
    given |= {"cached": ["t", "done"], "forget": [["aa"]]}
    facts = {"recipe": "{}"} if write == "tell" else {}
    with Store.open(grid) as opened:
        opened._connection.execute("PRAGMA query_only = 1")  # as on a disk that became read-only
        with pytest.raises(ResourceError, match="attempt to write a readonly database"):
            getattr(opened, write)(*given[write], **facts)


@pytest.mark.parametrize("name", ["", "..", "../../precious", "/tmp"])
def test_nor_is_it_removed_by_name(grid, name):
    with pytest.raises(ConfigError, match="is not in the grid's own"):
        remove_runs(grid, ["aa", name])
    assert (grid / "runs" / "aa").exists() and len(read_records(grid)[1]) == 2


@pytest.mark.parametrize("whole", [False, True])
def test_a_link_out_of_the_grid_is_not_followed(grid, tmp_path, whole):
    """The run's folder, or that of all runs, is a link."""
    (tmp_path / "precious" / "bb").mkdir()
    place = grid / "runs" if whole else grid / "runs" / "bb"
    place.rename(tmp_path / "moved")
    place.symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigError, match="is not in the grid's own"):
        remove_runs(grid, ["bb"])
    assert (tmp_path / "precious" / "work.txt").exists() and (tmp_path / "precious" / "bb").exists()
    assert len(read_records(grid)[1]) == 2


def test_what_is_inside_goes(grid):
    remove_runs(grid, ["aa"])
    assert [record.id for record in read_records(grid)[1]] == ["bb"] and not (grid / "runs" / "aa").exists()
    remove_runs(grid, ["bb"])
    assert read_records(grid)[1] == []


# ---- the book ----


def test_what_no_living_process_is_at_is_stopped(grid):
    assert [record.status for record in read_records(grid)[1]] == ["stopped", "waiting"]
    lock = hold(grid / LOCK)
    assert lock is not None
    assert [record.status for record in read_records(grid)[1]] == ["running", "waiting"]
    lock.release()


KILLED = """
import os, sqlite3, sys
from pathlib import Path
from stratatune.studies.grid import book

class Dying(sqlite3.Connection):
    def executescript(self, text):
        for statement in text.split(";")[: int(sys.argv[2])]:
            self.execute(statement)
        os._exit(9)

def connect(path, plain=book._connect):
    connection = sqlite3.connect(path, factory=Dying, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection

book._connect = connect
book.Store.create(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("statements", range(7))
def test_killed_at_any_statement_while_it_is_begun(tmp_path, tmp_path_factory, statements):
    said = forked.start(["-c", KILLED, str(tmp_path), str(statements)], tmp_path_factory.mktemp("said"))
    assert said.wait() == 9 and (tmp_path / FILE).exists()
    with pytest.raises(ConfigError, match="is not a grid folder"):
        Store.open(tmp_path)
    with Store.create(tmp_path) as opened:
        opened.plan(planned("aa"))
        assert [row["id"] for row in opened.runs()] == ["aa"]
    assert len(read_records(tmp_path)[1]) == 1


@pytest.mark.parametrize("left_open", [False, True])
def test_a_read_only_grid_is_read_whole(grid, monkeypatch, left_open):
    """Also what stands in the log of a process that was killed; sqlite alone would have to write beside it."""
    opened = Store.open(grid) if left_open else None
    if opened:
        opened.plan(planned("aa", "bb", "cc"))
    plain = book._connect

    def connect(path):
        if str(path).startswith(str(grid)):
            raise sqlite3.OperationalError("unable to open database file")
        return plain(path)

    with monkeypatch.context() as patch:
        patch.setattr(book, "_connect", connect)
        assert len(read_records(grid)[1]) == 2 + left_open
    if opened:
        opened.close()


# ---- imports ----


def test_a_worker_does_not_import_from_the_working_folder(tmp_path, monkeypatch):
    for name in ("queue", "json", "torch", "stratatune", "filelock"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    worker = engines.Worker()
    answer = worker.do({"kind": "run", "name": "a", "config": {"out": str(tmp_path / "o")}})
    worker.stop()
    assert answer["status"] == "failed" and "missing" in answer["error"]


@pytest.mark.parametrize("name", ["loud", "loud.inner", "loud/data", "space.inner"])
def test_a_package_is_found_and_not_imported(tmp_path, monkeypatch, name):
    for package in ("loud", "loud/inner", "loud/data", "space/inner"):
        (tmp_path / "site" / package).mkdir(parents=True)
        if package != "loud/data":
            (tmp_path / "site" / package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    found = folder_of(f"package:{name}", tmp_path)
    assert found == tmp_path / "site" / name.replace(".", "/")
    assert not {one for one in sys.modules if one.partition(".")[0] in ("loud", "space")}


@pytest.mark.parametrize("name", ["", "nothing_of_that_name", "os", "a-b", "..", "json.tool.no", "__main__", "a..b"])
def test_no_package(tmp_path, name):
    with pytest.raises(ConfigError, match="is not installed"):
        folder_of(f"package:{name}", tmp_path)
