"""docs/compatibility.md names the versions of pyproject.toml and constraints.txt."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from packaging import version

pytest.importorskip("tomllib", reason="scripts/compat.py needs Python 3.11")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compat():
    spec = importlib.util.spec_from_file_location("compat", ROOT / "scripts" / "compat.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_has_every_bound_and_pin(compat):
    text = (ROOT / "docs" / "compatibility.md").read_text()
    table = {name: (old, new) for name, old, new in re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.M)}
    pins = {name: compat.pinned(name) for name in compat.lower_bounds()}
    newest = version.parse(table["torch"][1])  # a newer one than the pin, says the text
    assert newest >= version.parse(pins["torch"])
    pins["torch"] = str(newest)
    assert table == {name: (bound, pins[name]) for name, bound in compat.lower_bounds().items()}


def test_an_environment_is_held_to_its_versions(compat):
    oldest = compat.pins_of("oldest", "pinned", ["peft==0.20.0"])
    assert oldest["torch"] == compat.pinned("torch") and oldest["peft"] == "0.20.0"
    assert {**oldest, "torch": "", "peft": ""} == {**compat.lower_bounds(), "torch": "", "peft": ""}
    assert compat.pins_of("oldest", "oldest", [])["torch"] == compat.lower_bounds()["torch"]
    assert compat.pins_of("newest", "2.15.0", []) == {"torch": "2.15.0"}
    assert compat.pins_of("newest", "newest", []) == {}
