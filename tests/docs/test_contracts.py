"""docs/architecture.md shows the contracts of today, and names only files and classes that exist."""

import importlib
import re

from docs.contracts import PAGE, START, page

SOURCE = PAGE.parents[1] / "src" / "stratatune"


def test_the_contracts_are_up_to_date():
    text = PAGE.read_text(encoding="utf-8")
    assert START in text
    assert page(text) == text, "run: PYTHONPATH=tests python tests/docs/contracts.py"


def test_every_file_that_is_named_exists():
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", PAGE.read_text(encoding="utf-8")))
    assert len(named) > 40
    assert not [place for place in named if not (SOURCE / place).exists() and not (PAGE.parents[1] / place).exists()]


def test_every_name_stands_in_the_file_beside_it():
    """The rows of the table end in a file and a name in it."""
    rows = re.findall(r"^\| [^|]+ \| `([\w/]+)\.py`: `(\w+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 12
    for file, name in rows:
        module = importlib.import_module(f"stratatune.{file.replace('/', '.')}")
        assert hasattr(module, name), f"{file}.py has no {name}"
