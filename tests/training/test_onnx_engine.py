"""``predict`` and ``eval`` by onnxruntime: the answers and scores of the run, for each objective of an encoder."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import tiny
from stratatune.app.cli import run as command
from stratatune.errors import ModelError
from stratatune.training.predict import Predictor

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")

OBJECTIVES = {
    "classification": {"objective": "classification", "plan": "1: lora + houlsby"},
    "mlm": {"objective": "mlm", "plan": "late_prompt(depth=1, tokens=2) | adapter(depth=2)"},
    "regression": {"objective": "regression", "plan": "1: bitfit + lora", "label": "score"},
}


@pytest.fixture(scope="module")
def made():
    return {}


@pytest.fixture
def exported(run, tmp_path, tiny_folder, capsys, made):
    """Gives ``exported(*options, **settings)``: a run's folder, that of its ONNX export, and what export printed.

    Each is made once, for tests that do not change it, and of two blocks: torch's exporter takes its time for each.
    """

    def make(*options, **settings):
        key = json.dumps((options, settings))
        if key not in made:
            made[key] = new(*options, **settings)
        return made[key]

    def new(*options, **settings):
        two_blocks = {"model": str(tiny_folder("bert", blocks=2)), "plan": "1: lora"}
        run(**{**two_blocks, "out": str(tmp_path / "run"), "epochs": 2, "lr": 0.01, **settings})
        capsys.readouterr()
        arguments = ["export", str(tmp_path / "run"), "--to", "onnx", "--out", str(tmp_path / "onnx"), *options]
        assert command([*arguments, "--json"]) == 0
        return tmp_path / "run", tmp_path / "onnx", json.loads(capsys.readouterr().out)

    return make


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_answers_are_those_of_the_run(name, exported, files):
    folder, onnx, _ = exported(**OBJECTIVES[name])
    ours, theirs = Predictor(folder, device="cpu"), Predictor(onnx)
    texts = ["a great film", "the film a story this book was terrible", "bad"]
    one, other = ours.predict(texts), theirs.predict(texts)
    if one.values is None:
        assert one.labels == other.labels
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    else:
        np.testing.assert_allclose(one.values, other.values, atol=1e-4)
    scores = [each.score(str(files / "dev.csv"))["metrics"] for each in (ours, theirs)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_vectors_are_those_of_the_run(exported, tmp_path):
    words = ("film", "book", "story", "day", "night", "city")
    pairs = [{"anchor": f"a good {word}", "positive": f"the best {word} of all"} for word in words]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    folder, onnx, _ = exported(
        **{"objective": "vectors", "plan": "1: lora", "train": str(tmp_path / "pairs.jsonl"), "eval": None},
        **{"text": (), "label": None, "epochs": 1},
    )
    texts = ["a great film", "the film a story this book was terrible"]
    one, other = (each.predict(texts).columns for each in (Predictor(folder, device="cpu"), Predictor(onnx)))
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(np.array(one[name], float), np.array(other[name], float), atol=1e-5)


def test_the_command_line_reads_it(exported, files, tmp_path, capsys):
    folder, onnx, said = exported(**OBJECTIVES["mlm"])
    assert said["to"] == "onnx" and "int8" not in said
    found = []
    for where in ([folder], [onnx], [onnx, "--engine", "onnx"]):
        assert command(["predict", *map(str, where), "--text", "a great film", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["predictions"])
    assert found[1] == found[2] and found[0][0]["label"] == found[1][0]["label"]
    for wrong, expected in (
        ([folder, "--engine", "onnx"], "holds no model.onnx"),
        ([onnx, "--engine", "torch"], "holds no trained adapter"),
        ([onnx, "--engine", "tpu"], "legal: torch, onnx"),
        ([onnx, "--precision", "bf16"], "an ONNX export has its own"),
        ([onnx, "--device", "cuda"], "an ONNX export has its own"),
        ([onnx, "--memory-limit", "6GB"], "memory_limit: '6GB'; onnxruntime holds the whole model"),
        ([onnx, "--trunk", "streamed"], "trunk: 'streamed'; onnxruntime holds the whole model"),
    ):
        assert command(["predict", *map(str, wrong), "--text", "a"]) == 2
        assert expected in capsys.readouterr().err


def test_it_is_no_fitted_estimator(exported):
    import stratatune as st

    _, onnx, _ = exported(**OBJECTIVES["mlm"])
    for kind in (st.Classifier, st.Tagger, st.Embedder):
        with pytest.raises(ModelError, match=r"is an ONNX export.*st\.Predictor reads it"):
            kind.load(onnx)


def test_int8_says_what_it_costs(exported, files, capsys):
    _, onnx, said = exported("--int8", "--data", str(files / "dev.csv"))
    expected = said["int8"]
    assert expected["bytes_after"] < expected["bytes_before"] and expected["n"] == 21
    assert expected["before"].keys() == expected["after"].keys() and "accuracy" in expected["before"]
    predictor = Predictor(onnx)
    assert predictor.notices == ["matrices are int8: scores may differ from the run's"]
    assert predictor.score(str(files / "dev.csv"))["metrics"] == pytest.approx(expected["after"])


def test_int8_scores_the_runs_own_evaluation_data(exported, files):
    _, _, said = exported("--int8", eval=str(files / "dev.csv"))
    assert said["int8"]["scored_on"] == str(files / "dev.csv") and said["int8"]["n"] == 21


def test_options_that_do_not_go_together_are_refused(tmp_path, capsys):
    for wrong, expected in (
        (["--to", "peft", "--int8"], "the format 'peft' has no int8"),
        (["--to", "onnx", "--data", "x.csv"], "only used with --int8"),
    ):
        assert command(["export", "run", "--out", str(tmp_path / "out"), *wrong]) == 2
        assert expected in capsys.readouterr().err


DAMAGES = (
    ("model.onnx", b"no graph", "onnxruntime cannot read"),
    ("stratatune.json", b"{", "is damaged"),
    ("stratatune.json", b'{"format": 7}', "not a record of format 1"),
    ("stratatune.json", b'{"format": 1}', "is missing"),
)


def test_a_damaged_export_is_refused_in_one_line(exported, tmp_path):
    _, onnx, _ = exported(**OBJECTIVES["mlm"])
    damaged = tmp_path / "damaged"
    for file, content, expected in DAMAGES:
        shutil.copytree(onnx, damaged)
        (damaged / file).write_bytes(content)
        with pytest.raises(ModelError, match=expected) as caught:
            Predictor(damaged)
        assert "\n" not in caught.value.message
        shutil.rmtree(damaged)
    shutil.copytree(onnx, damaged)
    tiny.tiny_tokenizer("roberta").save_pretrained(damaged)
    with pytest.raises(ModelError, match="is not the one that this adapter was trained with"):
        Predictor(damaged)
