"""The README's own lines, run as they stand: only the base models are tiny ones, saved on the spot."""

import re
import shlex
from pathlib import Path

import pytest

from stratatune.app.cli import run

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
GOOD, BAD = "a very good film and a great story", "a very poor film and a sad story"
TEXTS, LABELS = [GOOD, BAD] * 12, ["positive", "negative"] * 12


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def here(tiny_folder, tmp_path, monkeypatch) -> str:
    """A folder with the files that the README names; gives the path of a model as deep as roberta-large."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRATATUNE_CACHE", str(tmp_path / "caches"))
    rows = [f"{text},{label}" for text, label in zip(TEXTS, LABELS, strict=True)]
    for name in ("train.csv", "dev.csv"):
        Path(name).write_text("\n".join(["sentence,label", *rows]) + "\n")
    Path("new.csv").write_text("\n".join(["sentence", *TEXTS]) + "\n")
    return str(tiny_folder("roberta", blocks=24))


def test_the_commands(here):
    lines = [line for line in blocks("sh")[1].replace("\\\n", " ").splitlines() if line.startswith("stratatune")]
    assert len(lines) == 4
    for line in lines:
        words = shlex.split(line.replace("roberta-base", here), comments=True)[1:]
        assert run([*words, *(["--epochs", "1"] if words[0] == "train" else [])]) == 0, line
    labelled = Path("labelled.csv").read_text().splitlines()
    assert len(labelled) == len(TEXTS) + 1
    assert "label" in labelled[0].split(",")


def test_the_python_lines(here, capsys):
    import transformers

    (text,) = blocks("python")
    hf_model = transformers.AutoModelForMaskedLM.from_pretrained(here)
    names = {"texts": TEXTS, "labels": LABELS, "hf_model": hf_model}
    text = text.replace('"roberta-large"', repr(here)).replace("Classifier(", f"Classifier(model={here!r}, epochs=1, ")
    exec(compile(text, "README.md", "exec"), names)
    assert "trainable params" in capsys.readouterr().out
