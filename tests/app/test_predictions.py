"""Predictions as files: every row and every column of the data, and every text as it was."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import stratatune as st
from stratatune.app.predictions import Output, as_text, output_of
from stratatune.errors import ConfigError, DataError
from stratatune.training import predict
from stratatune.training.forward import Forward

from .conftest import BAD, GOOD, write_csv

ODD = [GOOD, "a\rb", 'said "no", he', "two\nlines", "\u2028 x \x85 y \x0c z", "tab\tbed"]


def rows_in(path):
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().split("\n") if line]
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_lone_carriage_return_is_quoted():
    text = as_text(Output({"text": ODD}, {"label": ["x"] * len(ODD)}), "csv")
    assert [row["text"] for row in csv.DictReader(io.StringIO(text, newline=""))] == ODD
    assert text.endswith(",x\n") and "\r\n" not in text


def test_numbers_of_the_data_are_not_rounded():
    output = Output({"score": [0.123456789]}, {"p_x": [0.123456789]})
    assert list(output.rows()) == [{"score": 0.123456789, "p_x": 0.123457}]
    assert list(output.answers()) == [{"p_x": 0.123457}]


def test_texts_that_are_cut_are_told(say, trained, tmp_path):
    longest = st.Predictor(trained).objective.max_length
    data = write_csv(tmp_path / "in.csv", [(GOOD, "positive"), (GOOD * longest, "positive")])
    notice = f"1 of 2 texts of {data} were cut to {longest} tokens"
    for arguments in (("predict", trained, "--data", data), ("eval", trained, "--data", data)):
        said = say(*arguments)
        assert said.code == 0 and said.err.count(notice) == 1, said.err
    assert notice in st.Predictor(trained).predict(data).table.notices
    assert notice in st.Predictor(trained).score(data)["notices"]
    assert not any("cut" in line for line in st.Predictor(trained).predict([GOOD]).table.notices)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"precision": "fp16"}, "precision: 'fp16' (did you mean 'bf16'? legal: fp32, bf16, auto)"),
        ({"precision": "float32"}, "precision: 'float32' (did you mean 'fp32'? legal: fp32, bf16, auto)"),
        ({"precision": 16}, "precision: 16 (did you mean 'bf16'? legal: fp32, bf16, auto)"),
        ({"device": "gpu"}, "device: 'gpu' (did you mean 'cuda'? legal: auto, cpu, cuda, mps)"),
        ({"device": None}, "device: 'None' (legal: auto, cpu, cuda, mps)"),
        ({"eval_batch_size": 0}, "eval_batch_size: 0 (give a whole number, 1 or more)"),
        ({"eval_batch_size": True}, "eval_batch_size: True (give a whole number, 1 or more)"),
        ({"eval_batch_size": "8"}, "eval_batch_size: '8' (give a whole number, 1 or more)"),
        ({"memory_limit": 5}, "memory_limit: 5; "),
        ({"memory_limit": True}, "memory_limit: 'True' (write a number with a unit"),
        ({"memory_limit": -1}, "memory_limit: '-1' (write a number with a unit"),
    ],
)
def test_a_predictor_s_settings_are_refused_in_a_line(wrong, said, trained):
    with pytest.raises(ConfigError) as error:
        st.Predictor(trained, **wrong)
    assert said in str(error.value) and "\n" not in str(error.value), str(error.value)


def test_the_precision_auto_is_that_of_the_machine(trained, monkeypatch):
    for yes in (True, False):
        monkeypatch.setattr(predict, "in_bf16", lambda precision, device, yes=yes: yes and precision == "auto")
        assert (st.Predictor(trained, device="cpu", precision="auto").forward.autocast is not None) == yes


def test_answers_do_not_depend_on_the_batch(say, trained, tmp_path, monkeypatch):
    texts = [f"{GOOD} {'film ' * number}" for number in range(7)]
    data = write_csv(tmp_path / "in.csv", [(text, "positive") for text in texts])
    whole, scores = st.Predictor(trained).predict(data), st.Predictor(trained).score(data)["metrics"]
    sizes, plain = list[int](), Forward.__call__

    def counted(self, batch, feed, *, training):
        sizes.append(len(batch))
        return plain(self, batch, feed, training=training)

    monkeypatch.setattr(Forward, "__call__", counted)
    few = st.Predictor(trained, eval_batch_size=3)
    assert few.predict(data).probabilities == pytest.approx(whole.probabilities, abs=1e-5)
    assert sizes == [3, 3, 1]
    assert few.score(data)["metrics"] == pytest.approx(scores, abs=1e-5)
    sizes.clear()
    assert say("predict", trained, "--data", data, "--out", tmp_path / "p.csv", "--eval-batch-size", 4).code == 0
    assert say("eval", trained, "--data", data, "--eval-batch-size", 5).code == 0
    assert sizes == [4, 3, 5, 2]
    for verb in ("predict", "eval"):
        said = say(verb, trained, "--data", data, "--eval-batch-size", 0)
        assert said.code == 2 and "eval-batch-size" in said.err


@pytest.mark.parametrize("text", ["a fine film", "fine", "it was a very good film . " * 40, "two\nlines \0"])
def test_a_text_in_the_place_of_a_path_goes_into_a_list(text, trained):
    with pytest.raises(DataError) as error:
        st.Predictor(trained).predict(text)
    assert "into a list, predict([TEXT])" in error.value.hint and "\n" not in str(error.value)


def test_a_path_with_a_slip_is_no_text(trained):
    with pytest.raises(DataError, match="no file") as error:
        st.Predictor(trained).predict("films.csv")
    assert "list" not in error.value.hint


def test_the_folder_of_predictions_is_made(say, trained, tmp_path):
    out = tmp_path / "new" / "deep" / "p.CSV"
    assert say("predict", trained, "--text", GOOD, "--out", out).code == 0
    assert len(rows_in(out)) == 1
    said = say("predict", trained, "--text", GOOD, "--out", out / "p.csv")
    assert said.code == 2 and "is a file" in said.error
    said = say("predict", tmp_path / "no_run", "--text", GOOD, "--out", tmp_path / "other" / "p.csv")
    assert said.code != 0 and not (tmp_path / "other").exists()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("source", ["csv", "jsonl"])
def test_other_columns_and_every_row_are_kept(say, trained, tmp_path, suffix, source):
    rows = [{"id": f"0{i}", "text": text, "label": "mine", "p_positive": "kept"} for i, text in enumerate(ODD)]
    data, out = tmp_path / f"in.{source}", tmp_path / f"out.{suffix}"
    if source == "csv":
        with data.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    said = say("predict", trained, "--data", data, "--out", out, "--json")
    assert (said.code, said.json["n"]) == (0, len(ODD)), said.err
    found = rows_in(out)
    given = ["id", "text", "given_label", "given_p_positive"]
    assert list(found[0]) == [*given, "label", "p_negative", "p_positive"]
    for name, old in zip(given, rows[0], strict=True):
        assert [row[name] for row in found] == [row[old] for row in rows]
    assert all(row["label"] in ("positive", "negative") for row in found)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_rows_that_are_skipped_have_no_label(say, trained, tmp_path, suffix):
    data, out = tmp_path / "in.csv", tmp_path / f"out.{suffix}"
    data.write_text(f"id;text\n1;{GOOD}\n2; \n3;{BAD}\n4;\n")
    refused = say("predict", trained, "--data", data, "--out", out)
    assert refused.code == 2 and "row 2, 4" in refused.error and "--bad-rows" in refused.err
    said = say("predict", trained, "--data", data, "--out", out, "--bad-rows", "skip")
    assert said.code == 0 and "2 of 4 rows are left out" in said.err
    found = rows_in(out)
    assert [row["id"] for row in found] == ["1", "2", "3", "4"]
    empty = "" if suffix == "csv" else None
    assert [row["label"] == empty for row in found] == [False, True, False, True]
    assert [row["p_positive"] == empty for row in found] == [False, True, False, True]
    shown = say("predict", trained, "--data", data, "--bad-rows", "skip").out.splitlines()
    assert len(shown) == 4 and shown[1] == "(left out)"
    read_as_empty = say("predict", trained, "--data", data, "--out", out, "--bad-rows", "empty")
    assert read_as_empty.code == 0 and all(row["label"] for row in rows_in(out))


class Stream:
    """Standard input of bytes."""

    def __init__(self, content):
        self.buffer = io.BytesIO(content)


def test_standard_input_has_as_many_texts_as_lines(say, trained, monkeypatch):
    lines = [line for line in ODD if "\n" not in line]
    monkeypatch.setattr(sys, "stdin", Stream("\r\n".join(lines).encode()))
    said = say("predict", trained, "--data", "-", "--out", "-", "--format", "jsonl")
    assert [json.loads(line)["text"] for line in said.out.split("\n") if line] == lines
    monkeypatch.setattr(sys, "stdin", Stream(b"caf\xe9\n"))
    assert say("predict", trained, "--data", "-").code == 2
    monkeypatch.setattr(sys, "stdin", Stream(b"caf\xe9\n"))
    said = say("predict", trained, "--data", "-", "--out", "-", "--encoding", "latin-1")
    assert "caf\xe9" in said.out


def test_csv_on_standard_input_keeps_its_line_ends(say, trained, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Stream(b'text\n"a\rb"\n"c\r\nd"\n'))
    said = say("predict", trained, "--data", "-", "--in-format", "csv", "--out", "-")
    rows = list(csv.DictReader(io.StringIO(said.out, newline="")))
    assert [row["text"] for row in rows] == ["a\rb", "c\r\nd"]


@pytest.mark.parametrize("named", ["{own}", "{other},{own}", "{folder}/*.csv"])
def test_predictions_are_not_written_over_their_data(say, trained, tmp_path, named):
    own, other = tmp_path / "own.csv", tmp_path / "other.csv"
    for path in (own, other):
        path.write_text("text,id\na film,7\n")
    data = named.format(own=own, other=other, folder=tmp_path)
    said = say("predict", trained, "--data", data, "--out", str(tmp_path / "." / "own.csv"))
    assert said.code == 2 and "own.csv' is the file that is read" in said.err
    assert own.read_text() == "text,id\na film,7\n"


def test_a_format_of_standard_output_asks_for_it(say, trained):
    said = say("predict", trained, "--text", "a film", "--format", "jsonl")
    assert json.loads(said.out)["text"] == "a film"
    assert "format: 'jsonl'" in say("predict", trained, "--text", "a film", "--format", "jsonl", "--json").error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "a", "--out", "x.csv", "--format", "jsonl"], "format: 'jsonl' is that of standard output"),
        (["--text", "a", "--in-format", "jsonl"], "in_format: 'jsonl' is that of standard input"),
        (["--text", "a", "--format", "text"], "format: 'text' is only read"),
    ],
)
def test_a_format_that_is_not_used_is_refused(say, trained, options, message):
    said = say("predict", trained, *options)
    assert said.code == 2 and message in said.err


def test_faults_of_standard_input_name_it(say, trained, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Stream(b'{"other": "a"}\n'))
    said = say("predict", trained, "--data", "-", "--in-format", "jsonl")
    assert said.code == 2 and "error: standard input has no column 'text'" in said.err
    monkeypatch.setattr(sys, "stdin", Stream(b'{"text": "a"}\n{"text": ""}\n'))
    said = say("predict", trained, "--data", "-", "--in-format", "jsonl")
    assert said.code == 2 and "error: standard input: text column 'text' is empty" in said.err


def test_eval_shows_each_class(say, trained, data):
    said = say("eval", trained, "--data", data)
    assert "f1: of 'positive' (binary)" in said.out and "recall" in said.out
    found = say("eval", trained, "--data", data, "--json").json["by_class"]
    saved = json.loads((trained / "result.json").read_text())["by_class"]["evaluation"]
    assert found == saved
    assert sum(map(sum, found["confusion"])) == sum(one["n"] for one in found["classes"]) == 24


def test_columns_that_are_called_otherwise(say, trained, data, tmp_path):
    """They are read by the run's names, and the output has their own."""
    with Path(data).open(newline="") as file:
        rows = list(csv.DictReader(file))
    (tmp_path / "other.csv").write_text(
        "id,review,stars\n" + "".join(f'{n},"{r["text"]}",{r["label"]}\n' for n, r in enumerate(rows))
    )
    names = ("--column", "text=review", "--column", "label=stars")
    plain = say("eval", trained, "--data", data, "--json").json
    assert say("eval", trained, "--data", tmp_path / "other.csv", *names, "--json").json["metrics"] == plain["metrics"]
    out = tmp_path / "out.csv"
    assert say("predict", trained, "--data", tmp_path / "other.csv", *names[:2], "--out", out).code == 0
    with out.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0])[:3] == ["id", "review", "stars"] and found[0]["review"] == rows[0]["text"]
    for verb, more, missing in (("eval", (), "text"), ("predict", (), "text"), ("eval", names[:2], "label")):
        refused = say(verb, trained, "--data", tmp_path / "other.csv", *more)
        assert refused.code == 2 and f"has no column {missing!r}" in refused.error
        assert f"where it has another name: --column {missing}=NAME" in refused.err
    for file, word, said in (
        (tmp_path / "other.csv", "text", "column: 'text'"),
        (tmp_path / "other.csv", "text=revew", "has no column 'revew'"),
        (data, "text=label", "there is a column of that name"),
        (tmp_path / "other.csv", "txt=review", "column: 'txt' is no column that this model reads"),
    ):
        refused = say("predict", trained, "--data", file, "--column", word)
        assert refused.code == 2 and said in refused.error
        assert "did you mean 'text'" in refused.err or "txt" not in word


def test_the_format_of_a_file_by_keywords(say, trained, tmp_path):
    """What the command line says of a file, Python says with keywords, with the same answers and errors."""
    path = tmp_path / "other.csv"
    path.write_bytes(f"review;stars\n{GOOD} caf\xe9;positive\n;negative\n{BAD};negative\n".encode("latin-1"))
    predictor = st.Predictor(trained)
    given: dict[str, Any] = {"delimiter": "semicolon", "encoding": "latin-1", "bad_rows": "skip"}
    found = predictor.predict(str(path), **given, columns={"text": "review"})
    labels = list(found.labels or [])
    assert found.table.texts[0][0] == f"{GOOD} caf\xe9" and labels[1] is None and labels[2] is not None
    names = {"text": "review", "label": "stars"}
    scored = predictor.score(path, **given, columns=names)
    options = ("--delimiter", "semicolon", "--encoding", "latin-1", "--bad-rows", "skip")
    columns = ("--column", "text=review", "--column", "label=stars")
    said = say("eval", trained, "--data", path, *options, *columns, "--json").json
    assert said["metrics"] == pytest.approx(scored["metrics"]) and scored["n"] == said["n"] == 2
    mistakes: list[tuple[Any, dict[str, Any], str]] = [
        (path, {**given, "columns": {"text": "revew"}}, "has no column 'revew'"),
        (path, {**given, "columns": {"txt": "review"}}, "'txt' is no column that this model reads"),
        (path, {**given, "bad_rows": "drop"}, "bad_rows: 'drop'"),
        ([GOOD], {"delimiter": ";"}, "delimiter: ';'; only csv and tsv files have a delimiter"),
        ([GOOD], {"columns": {"text": "review"}}, "columns: {'text': 'review'}; only a table has columns"),
        ([], {"columns": names}, "no rows"),
        (path, {"delimiter": 5}, "delimiter: 5"),
        (path, {"encoding": 5}, "encoding: 5 is not a text encoding"),
    ]
    for source, wrong, line in mistakes:
        with pytest.raises((ConfigError, DataError)) as error:
            predictor.predict(source, **wrong)
        assert line in str(error.value) and "\n" not in str(error.value), str(error.value)
    with pytest.raises(DataError, match=r'bad_rows="skip" leaves them out') as error:
        predictor.predict(str(path), **{**given, "bad_rows": None}, columns={"text": "review"})
    for option in ('bad_rows="empty"', 'bad_rows="skip"'):  # as the hint has it
        assert option in str(error.value)


def test_columns_of_any_type_are_in_json(say, trained, tmp_path):
    """A parquet file may hold dates, decimals and bytes, which are text in a file of jsonl, too."""
    import datetime
    from decimal import Decimal

    import pyarrow
    import pyarrow.parquet

    columns = {"text": [GOOD], "when": [datetime.datetime(2024, 1, 2)], "sum": [Decimal("1.50")], "raw": [b"ab"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "in.parquet")
    said = say("predict", trained, "--data", tmp_path / "in.parquet", "--json")
    assert said.code == 0, said.err
    lines = say("predict", trained, "--data", tmp_path / "in.parquet", "--out", "-", "--format", "jsonl").out
    assert said.json["predictions"] == [json.loads(line) for line in lines.splitlines()]
    assert said.json["predictions"][0]["sum"] == "1.50"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("predict", "--text", GOOD, "--json", "--format", "csv"), "format: 'csv' is that of standard output"),
        (("predict", "--text", GOOD, "--delimiter", ";"), "delimiter: ';' is that of a file"),
        (("predict", "--text", GOOD, "--encoding", "latin-1"), "encoding: 'latin-1' is that of a file"),
        (("predict", "--text", GOOD, "--column", "text=a"), "column: 'text=a' is that of a file"),
        (("predict", "--data", "-", "--delimiter", ";"), "delimiter: ';' is that of a table"),
        (("predict", "--data", "x.jsonl", "--delimiter", ";"), "delimiter: ';'; only csv and tsv files have a"),
        (("predict", "--text", GOOD, "--seed", "3"), "seed: 3; nothing is sampled"),
        (("eval", "--forgetting", "x.txt", "--bad-rows", "skip"), "bad_rows: 'skip' is that of labelled data"),
        (("eval", "--forgetting", "x.txt", "--encoding", "latin-1"), "encoding: 'latin-1' is that of labelled data"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value[1:]),
)
def test_options_that_would_not_be_read_are_refused(say, tmp_path, monkeypatch, words, error):
    monkeypatch.chdir(tmp_path)
    for name in ("x.txt", "x.jsonl"):
        (tmp_path / name).write_text('{"text": "a"}\n')
    verb, *options = words
    said = say(verb, tmp_path / "run", *options)
    assert said.code == 2 and said.error.startswith(error)


def test_a_column_of_lists_in_json_comes_back_as_it_was():
    from stratatune.data.frames import Frame
    from stratatune.data.readers import Table
    from stratatune.training.prediction import Prediction

    whole = {"tokens": ['["Ada", "wrote"]'], "id": ["7"]}
    frame = Frame("f.csv", list(whole), whole.__getitem__, [1])
    table = Table((["Ada wrote"],), None, ("tokens",), rows=[1], whole=frame)
    output = output_of(Prediction(table, {"label": ["x"]}, ["x"], None, None))
    assert next(iter(output.rows()))["tokens"] == '["Ada", "wrote"]'
