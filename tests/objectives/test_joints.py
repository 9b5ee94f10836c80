"""An objective is one file and one line: a toy one goes through everything, and nobody asks for one by its name."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import stratatune
from stratatune.app.cli import run as command
from stratatune.errors import ConfigError
from stratatune.objectives.registry import OBJECTIVES, register, smaller_is_better, written
from stratatune.training.config import commented_yaml, validate
from stratatune.training.predict import Predictor

# ---- a toy objective: one file and one registration, as docs/architecture.md has it ------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


@pytest.fixture
def toy(tmp_path):
    """The class on the page, whose file is written to a folder and imported; the file registers it."""
    (source,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (tmp_path / "vowels.py").write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("vowels", tmp_path / "vowels.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["vowels"] = module  # a field's type is looked up there
    spec.loader.exec_module(module)
    yield module.Vowels
    del OBJECTIVES["vowels"], sys.modules["vowels"]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]):
    """Gives ``told(*arguments)``: standard output of a command that succeeds."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert command([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    return run


def test_a_toy_objective_trains_is_scored_saved_and_used(toy, run, files, tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    settings = {"objective": "vowels(letters=ae)", "plan": "2: lora(rank=4)", "label": None}
    first = run(**settings, out=str(out), cache=str(cache))
    assert first.objective == "vowels" and first.best.keys() == {"miscounted"} and not first.cache_hit
    assert "the vowels are ae" in first.notices and smaller_is_better("miscounted")
    again = run(**settings, out=str(tmp_path / "again"), cache=str(cache))
    assert again.cache_hit and again.best == first.best
    predictor = Predictor(out, device="cpu")
    assert predictor.objective.letters == "ae"
    scores = predictor.score(str(files / "dev.csv"))["metrics"]
    assert scores["miscounted"] == pytest.approx(first.best["miscounted"], abs=1e-5)
    said = predictor.predict(["a better day", "the sea"])
    assert list(said.columns) == ["vowels"] and said.labels is None
    recorded = json.loads((out / "adapter" / "adapter.json").read_text())
    assert (recorded["reading"]["objective"], recorded["reading"]["letters"]) == ("vowels", "ae")


def test_a_toy_objective_is_at_the_doors(toy, told, files, tmp_path, tiny_folder):
    assert "vowels" in told("list", "objectives") and "vowels" in told("train", "--help")
    assert "vowels" in commented_yaml()
    model = tiny_folder("bert", "mlm")
    plan = json.loads(told("plan", "lora", "--model", model, "--objective", "vowels", "--json"))
    assert plan["objective"] == "vowels"
    given = ["--model", model, "--train", files / "train.csv", "--text", "text", "--objective", "vowels"]
    given += ["--plan", "2: bitfit", "--device", "cpu"]
    built = json.loads(told("cache", "build", *given, "--set", f"cache={tmp_path / 'cache'}", "--json"))
    assert built["depth"] == 2 and built["caches"][0]["examples"] == 48
    told("train", *given, "--epochs", 1, "--out", tmp_path / "run", "--cache", tmp_path / "cache", "--json")
    told("predict", tmp_path / "run", "--text", "a sea", "--out", tmp_path / "said.csv")
    assert (tmp_path / "said.csv").read_text().splitlines()[0] == "text,vowels"
    assert json.loads(told("eval", tmp_path / "run", "--data", files / "dev.csv", "--json"))["n"] == 21


def test_a_name_is_taken_once(toy):
    with pytest.raises(ConfigError, match="is taken"):
        register(toy)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("vowel", "did you mean 'vowels'"),
        ("vowels(letter=a)", "did you mean 'letters'"),
        ("mlm(letters=a)", "has no option"),
        ("vowels(letters=a", "did you mean 'vowels'"),
    ],
)
def test_what_is_written_is_checked_with_the_settings(toy, text, problem):
    with pytest.raises(ConfigError) as caught:
        validate({"model": "m", "train": "t", "objective": text}, check_files=False)
    assert problem in caught.value.message and caught.value.message.startswith("objective: ")


def test_options_are_read():
    assert written("auto") == ("auto", {}) and written(" mlm ") == ("mlm", {})


# ---- nobody else asks for an objective by its name -----------------------------------------------------------------

MOST = 12
SOURCE = Path(stratatune.__file__).parent


def _words(node: ast.AST) -> set[str]:
    """The texts that a comparison's side holds."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    parts = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else ()
    return {word for part in parts for word in _words(part)}


def branches(source: str, names: set[str]) -> Iterator[int]:
    """The lines on which a text is compared with one of the names."""
    for node in ast.walk(ast.parse(source)):
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        patterns = [node.pattern] if isinstance(node, ast.match_case) else []
        sides += [part.value for pattern in patterns for part in ast.walk(pattern) if isinstance(part, ast.MatchValue)]
        if any(_words(side) & names for side in sides):
            yield getattr(node, "lineno", 0) or sides[0].lineno


def test_the_counter_counts():
    source = 'if a == "mlm": pass\nb = a in ("causal", "x")\nmatch a:\n    case "mlm": pass\nc = {"mlm": 1}["mlm"]\n'
    assert sorted(branches(source, {"mlm", "causal"})) == [1, 2, 4]


def test_objectives_are_not_branched_on():
    """Outside the registry and the objectives' own files. The rooms of the model ask for heads, not for objectives."""
    found = [
        f"{path.relative_to(SOURCE)}:{line}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.relative_to(SOURCE).parts[0] not in ("objectives", "model")
        for line in branches(path.read_text(), set(OBJECTIVES))
    ]
    assert len(found) <= MOST, found
