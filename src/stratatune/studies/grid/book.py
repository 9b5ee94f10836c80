"""A grid's book: every run with its status and its result, in one SQLite file next to the run folders.

One process writes, under a lock; any number may read meanwhile (write-ahead log). Each change is one transaction, so
whatever is killed and whenever, the book says either the old or the new.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stratatune.errors import ConfigError, ResourceError, shown
from stratatune.studies.grid.contents import Contents
from stratatune.studies.grid.rows import AGAIN, CacheRow, Row, checked, column

FILE = "grid.sqlite"
LOCK = "grid.lock"
VERSION = 1
"""Version of the tables below; a book of another version is refused."""
_KIND = 0x57A7A  # distinguishes our files from other programs'

_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT 'waiting',
    coordinates TEXT NOT NULL,
    config TEXT NOT NULL,
    result TEXT,
    error TEXT,
    starts INTEGER NOT NULL DEFAULT 0,
    changed TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE caches (name TEXT PRIMARY KEY, status TEXT NOT NULL DEFAULT 'waiting', result TEXT, error TEXT);
"""


class Store:
    """The book of one grid folder; made by :meth:`create` or :meth:`open`.

    The statuses of a run: ``waiting``, ``running`` (or left so by a process that was killed), ``done``, ``failed``.
    """

    def __init__(self, connection: sqlite3.Connection, folder: Path) -> None:
        self._connection, self.folder = connection, folder

    @classmethod
    def create(cls, folder: Path) -> Store:
        """Open the book of ``folder``, created if missing.

        Raises:
            ConfigError: the folder holds something else, or a book of another version.
            ResourceError: it cannot be written.
        """
        path = folder / FILE
        with _database_errors(path):
            if path.exists() and not _is_blank(path):
                return cls.open(folder)
            folder.mkdir(parents=True, exist_ok=True)
            store = cls(_connect(path), folder)
            # One transaction: a process killed here leaves a file without tables, and that is begun again.
            store._connection.executescript(
                f"PRAGMA journal_mode=WAL; BEGIN; {_TABLES} PRAGMA application_id={_KIND};"
                f"PRAGMA user_version={VERSION}; COMMIT;"
            )
        return store

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Open an existing book; without the right to write it is opened for reading.

        Raises:
            ConfigError: there is none, or it is of another version.
        """
        path = folder / FILE
        with _database_errors(path):
            if not path.is_file() or _is_blank(path):
                raise ConfigError(
                    [f"{folder}: is not a grid folder"], "`stratatune grid RECIPE.yaml --out DIR` starts one"
                )
            connection = _connected(path)
            kind, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _FORM)
        if kind != _KIND or version != VERSION:
            connection.close()
            said = (
                f"is of version {version}; this stratatune reads {VERSION}"
                if kind == _KIND
                else "is not a grid of stratatune"
            )
            raise ConfigError(
                [f"{path}: {said}"], "choose another --out, or use the version of stratatune that started it"
            )
        return cls(connection, folder)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # ---- reading ----

    def about(self, name: str) -> str | None:
        """A fact of the whole grid, such as ``recipe``."""
        found = self._read("SELECT value FROM about WHERE name = ?", name)
        if found and not isinstance(found[0]["value"], str):
            raise ConfigError([f"{self.folder / FILE}: {name}: {shown(found[0]['value'])} is not text"], AGAIN)
        return found[0]["value"] if found else None

    def current(self) -> frozenset[str] | None:
        """The ids of the recipe's runs, see :meth:`belong`; None in a book of 0.1, which does not say.

        Raises:
            ConfigError: it holds something else than was written.
        """
        said = self.about(_CURRENT)
        if said is None:
            return None
        found = column(said, f"{self.folder / FILE}: {_CURRENT}")
        if not isinstance(found, list) or not all(map(is_id, found)):
            raise ConfigError([f"{self.folder / FILE}: {_CURRENT}: {shown(found)} is not a list of ids"], AGAIN)
        return frozenset(found)

    def runs(self) -> list[dict[str, Any]]:
        """Every run in the order of the grid; the JSON columns as data.

        Raises:
            ConfigError: a row holds something else than was written, or its id would name a folder elsewhere.
        """
        found = self._read("SELECT * FROM runs ORDER BY number, id")
        return [self._checked(row, Row, _JSON) for row in found]

    def caches(self) -> dict[str, dict[str, Any]]:
        """Every trunk cache that several runs share, by name."""
        found = self._read("SELECT * FROM caches ORDER BY name")
        return {row["name"]: self._checked(row, CacheRow, ("result",)) for row in found}

    def _checked(self, row: sqlite3.Row, model: type[Row | CacheRow], json_columns: Sequence[str]) -> dict[str, Any]:
        """A row as data; content that this version does not write is refused."""
        place, names = str(self.folder / FILE), row.keys()
        if "id" in names and not is_id(row["id"]):
            raise ConfigError([f"{place}: {shown(row['id'])} is not a run id"], AGAIN)
        place = f"{place}, {shown(row[names[0]])}"
        plain = {name: row[name] for name in names}
        plain |= {name: column(row[name], f"{place}: {name}") for name in json_columns if name in plain}
        return checked(model, plain, place)

    def contents(self) -> dict[str, Contents]:
        """The files that runs read as data when they began, by id; runs of earlier versions have none.

        Raises:
            ConfigError: a row holds something else than was written.
        """
        place, found = self.folder / FILE, {}
        for row in self._read("SELECT name, value FROM about WHERE name LIKE ?", f"{_READ}%"):
            held = column(row["value"], f"{place}: {row['name']}")
            if not _are_contents(held):
                raise ConfigError([f"{place}: {row['name']}: {shown(held)} is not a record of files"], AGAIN)
            found[row["name"].removeprefix(_READ)] = held
        return found

    # ---- writing ----

    def tell(self, **facts: str) -> None:
        """Record facts of the whole grid."""
        with _database_errors(self.folder / FILE), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", facts.items())

    def belong(self, runs: Iterable[str]) -> None:
        """Record which runs the recipe makes as it is now; others of the book are of earlier settings."""
        self.tell(**{_CURRENT: json.dumps(sorted(runs))})

    def plan(self, runs: Iterable[Mapping[str, Any]]) -> None:
        """Add the runs that the book does not have; of those that it has, update only the place in the order."""
        rows = [(one["id"], one["number"], json.dumps(one["coordinates"]), json.dumps(one["config"])) for one in runs]
        with _database_errors(self.folder / FILE), self._connection:
            self._connection.executemany(
                "INSERT INTO runs (id, number, coordinates, config) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET number = excluded.number, coordinates = excluded.coordinates",
                rows,
            )

    def started(self, run: str, contents: Contents) -> None:
        """Record that a run has begun, or continues, and the files that it reads as data and as models."""
        self.tell(**{f"{_READ}{run}": json.dumps(contents)})
        self._write(
            "UPDATE runs SET status = 'running', starts = starts + 1, error = NULL, "
            "changed = CURRENT_TIMESTAMP WHERE id = ?",
            run,
        )

    def stopped(self, run: str, status: str, *, result: Any = None, error: str | None = None) -> None:
        """Record that a run is ``done`` or ``failed``, or ``waiting`` again."""
        self._write(
            "UPDATE runs SET status = ?, result = ?, error = ?, changed = CURRENT_TIMESTAMP WHERE id = ?",
            *(status, None if result is None else json.dumps(result), error, run),
        )

    def cached(self, name: str, status: str, *, result: Any = None, error: str | None = None) -> None:
        """Record the status of building a shared trunk cache."""
        self._write("INSERT OR REPLACE INTO caches VALUES (?, ?, ?, ?)", name, status, json.dumps(result), error)

    def forget(self, runs: Iterable[str]) -> None:
        """Take runs out of the book."""
        with _database_errors(self.folder / FILE), self._connection:
            self._connection.executemany("DELETE FROM runs WHERE id = ?", [(run,) for run in runs])
            self._connection.executemany("DELETE FROM about WHERE name = ?", [(f"{_READ}{run}",) for run in runs])

    def _read(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with _database_errors(self.folder / FILE):
            return self._connection.execute(query, values).fetchall()

    def _write(self, query: str, *values: Any) -> None:
        with _database_errors(self.folder / FILE), self._connection:
            self._connection.execute(query, values)


_FORM = ("application_id", "user_version")
_CURRENT = "runs"
_READ = "read by "
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_JSON = ("coordinates", "config", "result")


def _connect(path: str | Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30)
    connection.row_factory = sqlite3.Row
    return connection


def _are_contents(held: Any) -> bool:
    """Whether this is what :meth:`Store.started` writes."""
    if not isinstance(held, dict):
        return False
    return all(isinstance(one, list) and [*map(type, one)] == [int, int, str] for one in held.values())


def is_id(value: Any) -> bool:
    """Whether ``value`` may name a run, and with it a folder: letters, digits, ``-`` and ``_``, 64 at most."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _is_blank(path: Path) -> bool:
    """Whether a book is still empty: no bytes, or SQLite's own and no table."""
    if not path.stat().st_size:
        return True
    with contextlib.closing(_connected(path)) as connection:
        form = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _FORM]
        return not any(form) and not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()


def _connected(path: Path) -> sqlite3.Connection:
    """Connect for reading; if the folder may not be written, to a copy in memory.

    A book with a write-ahead log cannot be read without writing next to it.
    """
    try:
        connection = _connect(path)
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        return connection
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise
    with tempfile.TemporaryDirectory() as folder:
        for end in ("", "-wal"):
            if (source := path.with_name(path.name + end)).exists():
                shutil.copyfile(source, Path(folder) / source.name)
        with contextlib.closing(_connect(Path(folder) / path.name)) as copied:
            held = _connect(":memory:")
            copied.backup(held)
    held.execute("PRAGMA query_only=ON")
    return held


@contextlib.contextmanager
def _database_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and not str(error).startswith("no such"):
            raise ResourceError(f"{path}: {error}", "is the disk full, or the folder read-only?") from error
        raise ConfigError([f"{path}: {error}"], "the file is damaged or not a grid; choose another --out") from error
    except OSError as error:
        raise ResourceError(f"{path}: {error.strerror or error}", "choose a folder that you can write to") from error
