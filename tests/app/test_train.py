"""`train`, `eval` and `predict` on a tiny model: what they write and say, and every bad input in one line."""

import csv
import errno
import io
import json
import subprocess
import sys

import pytest

from stratatune.app.verbs.predicting import shown

from .conftest import BAD, GOOD, ROWS, write_csv

TRAIN_KEYS = "out plan frozen_depth trainable best epochs seconds tokens_per_second peak_memory_bytes cache_hit".split()


@pytest.fixture
def train(say, tiny_folder, data, tmp_path):
    """``train("--epochs", 1)``: a command that would succeed; options given win, being the last."""
    return lambda *more, **_: say(
        "train", "--model", tiny_folder("bert"), "--plan", "bft-adapter", "--train", data, "--eval", data,
        "--text", "text", "--label", "label", "--epochs", 1, "--out", tmp_path / "run", "--cache", "ram", *more,
    )  # fmt: skip


def test_train_json(train, tmp_path):
    said = train("--json")
    assert said.code == 0, said.err
    assert set(TRAIN_KEYS) <= set(said.json)
    assert set(said.json["seconds"]) == {"cache", "train", "eval"}
    assert said.json["out"] == str(tmp_path / "run")
    assert "backward through" in said.err and "backward stops here" not in said.err  # two lines; `plan` draws


def test_train_tells(train, tmp_path):
    said = train()
    assert (said.code, said.out) == (0, "")
    for word in ("score ", "time ", "why fast ", "saved ", "next ", str(tmp_path / "run" / "adapter")):
        assert word in said.err


def test_quiet_and_notices_only(train):
    said = train("--quiet")
    assert said.code == 0
    assert [line for line in said.err.splitlines() if not line.startswith("note: ")] == []


def test_options_win_over_the_file_and_set_over_options(train, data, tiny_folder, tmp_path, say):
    file = tmp_path / "run.yaml"
    file.write_text(
        f"model: {tiny_folder('bert')}\ntrain: {data}\ntext: text\nlabel: label\nepochs: 3\nlr: 0.5\nseed: 4\n"
    )
    said = say("train", file, "--epochs", "1", "--lr", "0.25", "--set", "lr=0.125", "--out", tmp_path / "run", "--json")
    assert said.code == 0, said.err
    written = (tmp_path / "run" / "config.yaml").read_text()
    assert {"epochs: 1", "lr: 0.125", "seed: 4"} <= set(written.splitlines())


def test_train_in_a_process_of_its_own(data, tiny_folder, tmp_path):
    """As a user runs it: nothing but the object on standard output, no warning, no traceback."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "stratatune",
        "train",
        "--model",
        str(tiny_folder("bert")),
        "--train",
        str(data),
    ]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run"), "--epochs", "1", "--json"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epochs"] == 1


def test_eval(say, trained, data):
    said = say("eval", trained, "--data", data, "--json")
    assert said.code == 0, said.err
    assert said.json["n"] == len(ROWS)
    trained_to = json.loads((trained / "result.json").read_text())["best"]
    assert {name: said.json["metrics"][name] for name in trained_to} == pytest.approx(trained_to, abs=1e-5)
    assert "accuracy" in say("eval", trained, "--data", data).out


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_predict(say, trained, data, tmp_path, suffix):
    out = tmp_path / f"out.{suffix}"
    said = say("predict", trained, "--data", data, "--out", out, "--json")
    assert said.code == 0, said.err
    assert said.json == {"n": len(ROWS), "out": str(out)}
    rows = read(out)
    assert [row["text"] for row in rows] == [text for text, _ in ROWS]
    assert list(rows[0]) == ["text", "given_label", "label", "p_negative", "p_positive"]
    assert [row["given_label"] for row in rows] == [label for _, label in ROWS]
    for row in rows:
        assert float(row["p_negative"]) + float(row["p_positive"]) == pytest.approx(1, abs=1e-5)
        assert row["label"] == max(("negative", "positive"), key=lambda name: float(row[f"p_{name}"]))
    assert not list(tmp_path.glob(".*"))


def read(path):
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return list(csv.DictReader(io.StringIO(path.read_text())))


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (f"{GOOD}\n{BAD}\n", []),
        (f"text\n{GOOD}\n{BAD}\n", ["--in-format", "csv"]),
        (f'{{"text": "{GOOD}"}}\n{{"text": "{BAD}"}}\n', ["--in-format", "jsonl", "--format", "jsonl"]),
    ],
    ids=["text", "csv", "jsonl"],
)
def test_predict_through_a_pipe(say, trained, monkeypatch, given, options):
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))
    said = say("predict", trained, "--data", "-", "--out", "-", *options)
    assert said.code == 0, said.err
    rows = (
        [json.loads(line) for line in said.out.splitlines()]
        if "jsonl" in options
        else list(csv.DictReader(io.StringIO(said.out)))
    )
    assert [row["text"] for row in rows] == [GOOD, BAD]


def test_predict_a_text(say, trained):
    said = say("predict", trained, "--text", GOOD, "--json")
    assert said.json["n"] == 1
    assert said.json["predictions"][0]["text"] == GOOD
    assert say("predict", trained, "--text", GOOD).out.split()[0] in ("positive", "negative")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": "good", "p_good": 0.75, "p_bad": 0.25}, "good  (good 0.75, bad 0.25)"),
        ({"p_sex": "m", "p_age": "old", "p_p_sex_m": 0.75, "p_p_age_old": 0.5}, "p_sex: m; p_age: old"),
        ({"p_size": 1.0, "p_age": 2.0}, "p_size: 1.0000; p_age: 2.0000"),
        ({"labels": ["p_a"], "p_p_a": 0.75}, "p_a  (p_a 0.75)"),
        ({"value": "a", "predicted_value": 2.5}, "2.5000"),
        ({"text": "the dog was", "generated": "very big ."}, "very big ."),
    ],
)
def test_a_prediction_is_shown_for_what_it_is(row, message):
    chances = {name: name.removeprefix("p_") for name, value in row.items() if isinstance(value, float) and value < 1}
    assert shown(row, chances) == message


def bad_file(folder, rows, header=("text", "label")):
    return write_csv(folder / "bad.csv", rows, header)


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([], "there are no rows"),
        ([(GOOD, "positive"), (BAD, "positive")], "every label is 'positive'"),
        ([(GOOD, "positive"), (BAD, ""), (GOOD, "negative")], "label column 'label' is empty in 1 of 3 rows (row 2)"),
        ([(GOOD, "positive"), (" ", "negative")], "text column 'text' is empty in 1 of 2 rows (row 2)"),
    ],
)
def test_bad_rows(train, tmp_path, rows, error):
    said = train("--train", bad_file(tmp_path, rows))
    assert said.code == 2
    assert error in said.error


def test_bad_data(train, tmp_path):
    (tmp_path / "empty.csv").touch()
    cases = {
        "no such file": ["--train", tmp_path / "missing.csv"],
        "is empty": ["--train", tmp_path / "empty.csv"],
        "no column 'txt'": ["--text", "txt"],
        "no column 'lable'": ["--label", "lable"],
        "'other' was not seen in training": ["--eval", bad_file(tmp_path, [(GOOD, "other")])],
        "is not one token": ["--label-words", "positive=unbelievable,negative=bad"],
        "unknown preset 'bft-adaptor'": ["--plan", "bft-adaptor"],
        "depth=9": ["--plan", "bft-adapter@9"],
        "7:9": ["--plan", "7:9 bitfit"],
    }
    for error, options in cases.items():
        said = train(*options)
        assert said.code == 2, (error, said.err)
        assert error in said.error


def test_text_longer_than_the_model_is_cut_with_a_notice(train, tmp_path):
    rows = [*ROWS, (" ".join([GOOD] * 40), "positive")]
    said = train("--train", bad_file(tmp_path, rows))
    assert said.code == 0, said.err
    assert "note: " in said.err
    assert "cut" in said.err


def test_wrong_base(say, trained, tiny_folder, data):
    said = say("eval", trained, "--data", data, "--base", tiny_folder("bert", seed=1))
    assert said.code == 2
    assert "was trained on" in said.error


def test_folders_that_cannot_be_used(train, say, trained, data, tmp_path):
    (tmp_path / "file").touch()
    assert train("--out", tmp_path / "file" / "run").code == 2
    said = train("--out", "/proc/stratatune")  # not even root may write there
    assert said.code == 1
    assert said.error.startswith("cannot write")
    assert "/proc/stratatune" in said.error
    assert say("predict", trained, "--data", data, "--out", tmp_path / "file" / "out.csv").code == 2
    assert say("predict", trained, "--data", data, "--out", tmp_path / "out.xlsx").code == 2
    assert say("predict", tmp_path, "--data", data, "--out", tmp_path / "out.csv").code == 2


def test_disk_full(say, train, trained, data, tmp_path, monkeypatch):
    from pathlib import Path

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    said = say("predict", trained, "--data", data, "--out", tmp_path / "out.csv")
    assert said.code == 1
    assert "No space left on device" in said.error
    said = train()
    assert said.code == 1
    assert "No space left on device" in said.error


def test_a_finished_run_is_not_written_over(train):
    assert train().code == 0
    said = train()
    assert said.code == 2
    assert "a finished run" in said.error


def test_eval_tells_what_was_forgotten(say, trained, data, tmp_path):
    """The masked-LM loss of tuned and base on plain text: finite, and not the same, since blocks changed."""
    plain = tmp_path / "plain.txt"
    plain.write_text("\n".join([GOOD, "she likes a great story and he likes a poor film"] * 8))
    said = say("eval", trained, "--data", data, "--forgetting", plain, "--json")
    assert said.code == 0, said.err
    lost = said.json["forgetting"]
    assert lost["objective"] == "mlm"
    assert lost["tokens"] > 0
    assert lost["difference"] == pytest.approx(lost["tuned"] - lost["base"], abs=1e-6)
    assert lost["difference"] != 0
    assert "metrics" in said.json
    assert say("eval", trained).code == 2


def test_hints_name_the_option(say, data, trained, tmp_path):
    blank = tmp_path / "blank.csv"
    blank.write_text("text,label\na good film,positive\n,negative\n")
    said = say("predict", trained, "--data", blank)
    assert said.code == 2 and "--bad-rows skip" in said.err and "bad_rows" not in said.err
    said = say("predict", trained, "--data", blank, "--bad-rows", "skip", "--out", tmp_path / "out.csv")
    assert "1 of 2 rows is left out" in said.err
    one = tmp_path / "one.csv"
    one.write_text("text,label\na good film,positive\n")
    assert "wrote 1 prediction to" in say("predict", trained, "--data", one, "--out", tmp_path / "one.jsonl").err


def test_the_plan_of_a_local_folder_has_no_revision(say, tiny_folder):
    said = say("plan", "2: lora", "--model", tiny_folder("bert"), "--revision", "main")
    assert said.code == 2 and "revision: 'main'" in said.error and "local folder" in said.error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("eval", "--forgetting", "DATA", "--memory-limit", "1KB"), "memory_limit: '1KB' cannot be used"),
        (("eval", "--forgetting", "DATA", "--trunk", "streamed"), "trunk: 'streamed' cannot be used"),
        (("eval", "--forgetting", "DATA", "--engine", "onnx"), "engine: 'onnx' cannot be used"),
        (("eval", "--forgetting", "DATA", "--precision", "bf16"), "precision: 'bf16' cannot be used"),
        (("eval", "--forgetting", "DATA", "--split", "test"), "split: 'test' is that of a folder"),
        (("predict", "--text", "a film", "--split", "test"), "split: 'test' is that of a folder"),
    ],
)
def test_an_option_without_effect_is_refused(words, said, say, trained, data):
    verb, *others = (str(data) if word == "DATA" else word for word in words)
    found = say(verb, trained, *others)
    assert found.code == 2 and said in found.error
