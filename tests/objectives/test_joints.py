"""An objective is one file and one line: a toy one goes through everything, and nobody asks for one by its name."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch

import stratatune
from stratatune.app.cli import run as command
from stratatune.data.encode import Encoded, encode_plain
from stratatune.data.readers import Table, read
from stratatune.errors import ConfigError
from stratatune.model.question import Question
from stratatune.objectives.objective import Answers, Asked, Objective, Using, common_from, common_of
from stratatune.objectives.registry import OBJECTIVES, register, smaller_is_better, written
from stratatune.training.config import commented_yaml, validate
from stratatune.training.predict import Predictor

# ---- a toy objective: one class and one registration --------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Vowels(Objective):
    """The number of vowels in each text, as tokens and letters tell it: no label column at all."""

    name: ClassVar[str] = "vowels"
    summary: ClassVar[str] = "counts vowels, for a test"
    head: ClassVar[str] = "classification"
    families: ClassVar[frozenset[str]] = frozenset({"encoder"})
    reads: ClassVar[Literal["one", "few", "all"]] = "one"
    metrics: ClassVar[tuple[str, ...]] = ("miscounted",)
    smaller_is_better: ClassVar[frozenset[str]] = frozenset({"miscounted"})
    options: ClassVar[Mapping[str, type]] = {"letters": str}
    place: ClassVar[str] = "[CLS]"

    letters: str = "aeiou"

    @classmethod
    def suits(cls, asked: Asked) -> bool:
        return False

    @classmethod
    def settle(cls, asked: Asked):
        letters = asked.options.get("letters", "aeiou")
        return cls(**common_of(asked, "miscounted"), letters=letters), [f"the vowels are {letters}"]

    @classmethod
    def from_data(cls, data: Mapping[str, Any], tokenizer: Any):
        return cls(**common_from(data), letters=data["letters"])

    def to_data(self) -> dict[str, Any]:
        return {**self.common(), "letters": self.letters}

    @classmethod
    def read(cls, source: Any, *, label: Any, need_labels: bool = True, **columns: Any) -> Table:
        return read(source, need_labels=False, **columns)

    @classmethod
    def classes_of(cls, table: Table) -> None:
        return None

    def encode(self, table: Table, tokenizer: Any) -> Encoded:
        counts = [sum(text.count(letter) for letter in self.letters) for text in table.texts[0]]
        return encode_plain(table, tokenizer, self.max_length).with_labels(np.array(counts, np.float32))

    def question(self, batch: Any, *, training: bool) -> Question:
        return Question(targets=batch.input_ids)

    def loss(self, logits: torch.Tensor, batch: Any, *, training: bool = True) -> torch.Tensor:
        return (logits[:, 0] - batch.labels / 10).square().mean()

    def predict(self, logits: torch.Tensor, batch: Any) -> np.ndarray:
        return 10 * logits[:, 0].float().cpu().numpy()

    def score(self, output: np.ndarray, data: Encoded, unit: float):
        return {"miscounted": float(np.abs(output - data.labels).mean())}, []

    def answer(self, table: Table, using: Using) -> Answers:
        output = using.output(table)
        return Answers({"vowels": output.tolist()}, values=output)


@pytest.fixture
def toy():
    register(Vowels)
    yield Vowels
    del OBJECTIVES["vowels"]


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
        register(Vowels)


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
