"""``stratatune predict``: the answers of a trained adapter."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from stratatune.app.door import Answer, Door, verb
from stratatune.app.verbs.using import (
    Run,
    Split,
    Threshold,
    check_data,
    check_form,
    check_split,
    hinting_at_column,
    machine,
    predictor_of,
    written,
)
from stratatune.data.lines import decode, lines_of
from stratatune.data.written import Written
from stratatune.errors import ConfigError, DataError, counted, cut


class Form(str, Enum):
    """The format of standard input or standard output."""

    text = "text"
    csv = "csv"
    jsonl = "jsonl"


_GENERATED = "Generated text"


def _option(meaning: str) -> Any:
    return typer.Option(help=meaning, show_default=False, rich_help_panel=_GENERATED)


def generation(
    max_new_tokens: Annotated[int | None, _option("Maximum number of tokens in an answer; default: 64.")] = None,
    num_beams: Annotated[int | None, _option("Beams of the search; 1 is greedy.")] = None,
    do_sample: Annotated[bool, typer.Option("--do-sample", help="Sample tokens.", rich_help_panel=_GENERATED)] = False,
    temperature: Annotated[
        float | None, _option("Temperature of the sampling; implies --do-sample. 0: do not sample.")
    ] = None,
    top_p: Annotated[
        float | None, _option("Sample from the most likely tokens with this total probability; implies --do-sample.")
    ] = None,
    top_k: Annotated[
        int | None, _option("Sample from this many most likely tokens (0: all); implies --do-sample.")
    ] = None,
    min_p: Annotated[
        float | None,
        _option(
            "Sample from tokens with this fraction of the likeliest one's probability or more; implies --do-sample."
        ),
    ] = None,
    repetition_penalty: Annotated[
        float | None, _option("Above 1: tokens of the text and its answer so far become less likely.")
    ] = None,
    seed: Annotated[int | None, _option("Seed of the sampling; default: 0.")] = None,
) -> dict[str, Any]:
    """The group of options for a model that writes text, named as in transformers' ``generate``."""
    from stratatune.training.generation import checked

    given = {"max_new_tokens": max_new_tokens, "num_beams": num_beams, "do_sample": do_sample or None}
    given |= {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
    found = checked({**given, "repetition_penalty": repetition_penalty, "seed": seed})
    if "do_sample" in found:
        return {"seed": 0, **found}
    if "seed" in found:
        raise ConfigError([f"seed: {seed}; nothing is sampled"], "add --do-sample, or leave it out")
    return found


@verb(where=machine, form=written, writing=generation)
def predict(
    door: Door,
    run: Run,
    where: dict[str, Any],
    form: Written,
    writing: dict[str, Any],
    data: Annotated[
        str | None, typer.Option(help="Texts: a file, a folder, a hub id, or - for standard input.", show_default=False)
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A text instead of --data; give two for a pair.", show_default=False)
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="A csv, jsonl, parquet or (vectors) npy file, or - for standard output.", show_default=False),
    ] = None,
    split: Split = None,
    threshold: Threshold = None,
    format: Annotated[
        Form | None,
        typer.Option(help="Format of standard output (--out -): csv or jsonl; csv by default.", show_default=False),
    ] = None,
    in_format: Annotated[
        Form,
        typer.Option(
            help="Format of standard input: text (one per line; a tab between the two of a pair), csv or jsonl."
        ),
    ] = Form.text,
) -> Answer:
    """Predict for each text; the output has the data's columns and the prediction: a label, a value, tags, an answer.

    It has as many rows as the data, in their order; those that --bad-rows skip leaves out have no label.
    """
    out = "-" if format is not None and out is None and not door.json else out
    _check_request(door, data, text, out, split, format, in_format, form)
    predictor = predictor_of(door, run, where, threshold)
    columns = predictor.text_columns
    with (
        _source(data, text, in_format, columns, form) as source,
        _called(source if data == "-" else None),
        hinting_at_column(predictor),
    ):
        prediction = predictor.predict(source, split=split, written=form, **writing)
    for notice in prediction.table.notices:
        door.reporter().notice(_named(notice, source if data == "-" else None))
    return _answer(prediction, out, format or Form.csv)


def _answer(prediction: Any, out: str | None, form: Form) -> Answer:
    """Write the predictions to ``out``; without it, show them."""
    from stratatune.app import predictions

    output = predictions.output_of(prediction)
    data: dict[str, Any] = {"n": len(prediction.table), "out": out}
    if out is None:
        return Answer(
            {**data, "predictions": list(output.rows())},
            "\n".join(shown(row, output.chances) for row in output.answers()),
        )
    if out == "-":
        return Answer(data, predictions.as_text(output, form.value), exact=True)
    predictions.write(output, out)
    return Answer(data, note=f"wrote {counted(len(prediction.table), 'prediction')} to {out}")


def shown(row: Mapping[str, Any], chances: Mapping[str, str] = MappingProxyType({})) -> str:
    """One prediction for a person: the label or labels and the three likeliest, the value, or what was generated.

    ``row``: without the columns of the data; ``chances``: the columns that are probabilities, and the class or label of
    each.
    """
    answers = {name: value for name, value in row.items() if name not in chances}
    answer = list(answers.values())[-1]
    if answer is None:
        return "(left out)"
    # Only what learnt several label columns has several answers beside probabilities.
    if len(answers) > 1 and (chances or all(isinstance(value, float) for value in answers.values())):
        return "; ".join(f"{name}: {shown({name: value})}" for name, value in answers.items())
    likely = sorted(((row[name], label) for name, label in chances.items()), reverse=True)
    likeliest = f"  ({', '.join(f'{cut(label)} {value:.2f}' for value, label in likely[:3])})" if likely else ""
    if isinstance(answer, list):
        return ("; ".join(map(_part, answer)) or "(nothing)") + likeliest
    if not isinstance(answer, str):
        return f"{answer:.4f}{likeliest}"
    return f"{cut(answer) if likely else answer}{likeliest}"


def _part(value: Any) -> str:
    """One of several answers to a text: ``Ada Lovelace  (person 0:12 0.98)``."""
    if not isinstance(value, dict):
        return str(value)
    there = [one for one in value.values() if one is not None]  # an answer that is empty has no characters
    first, *others = (f"{one:.2f}" if isinstance(one, float) else str(one) for one in there)
    return f"{first or '(nothing)'}  ({' '.join(others)})"


def _check_request(
    door: Door,
    data: str | None,
    text: list[str] | None,
    out: str | None,
    split: str | None,
    form: Form | None,
    in_form: Form,
    form_of_data: Written,
) -> None:
    from stratatune.app.predictions import check_writable

    if data is None and not text:
        raise ConfigError(["predict needs data"], "use either --data FILE or --text TEXT")
    if data is not None and text:
        raise ConfigError(
            [f"--data {data} and --text {text[0]!r:.40}: --text is a text to predict, not the name of a column"],
            "leave it out; for a column that has another name than in training: --column NAME=ITS_NAME_HERE",
        )
    if data not in (None, "-"):
        check_data(str(data))
    check_split(split, data)
    if data is None:
        check_form(form_of_data, data, ("delimiter", "encoding", "column"), "that of a file", "give --data")
    else:
        lines = data == "-" and in_form is Form.text
        unread = ("delimiter", "column") if lines else ()
        check_form(form_of_data, data, unread, "that of a table", "add --in-format csv")
    if form is not None and out is None and door.json:
        raise ConfigError(
            [f"format: {form.value!r} is that of standard output, where --json writes JSON"], "leave one of them out"
        )
    if out == "-" and door.json:
        raise ConfigError(
            ["--json and --out - both write to standard output"], "give --out a file, or leave --json out"
        )
    if form is Form.text:
        raise ConfigError(["format: 'text' is only read, not written"], "legal: csv, jsonl")
    if form is not None and out not in (None, "-"):
        raise ConfigError(
            [f"format: {form.value!r} is that of standard output, and out is {out!r}"],
            "leave --format out: the ending of --out says how the file is written",
        )
    if in_form is not Form.text and data != "-":
        raise ConfigError(
            [f"in_format: {in_form.value!r} is that of standard input, and data is {data!r}"],
            "leave --in-format out, or read standard input with --data -",
        )
    if out not in (None, "-"):
        check_writable(str(out))
        _check_spares_data(str(out), data)


def _check_spares_data(out: str, data: str | None) -> None:
    """Refuse to write the predictions over the data that they are made from."""
    from stratatune.data.several import files_in

    written = Path(out).expanduser()
    read = [] if data in (None, "-") else [Path(str(data)).expanduser(), *files_in(str(data))]
    if written.exists() and any(one.exists() and written.samefile(one) for one in read):
        raise ConfigError([f"out: {out!r} is the file that is read"], "choose another --out")


@contextlib.contextmanager
def _source(data: str | None, text: list[str] | None, form: Form, columns: int, written: Written) -> Iterator[Any]:
    """The input of the predictor: a path, or the texts themselves."""
    if data is None:
        yield _typed(text or [], columns)
    elif data != "-":
        yield data
    elif form is Form.text:
        yield _lines(lines_of(decode(_standard_input(), "standard input", written.encoding)), columns)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"stdin.{form.value}"
            path.write_bytes(_standard_input())
            yield str(path)


def _named(said: str, source: Any) -> str:
    """A line in which the file that holds standard input for a while is called that."""
    return said.replace(source, "standard input") if isinstance(source, str) else said


@contextlib.contextmanager
def _called(source: Any) -> Iterator[None]:
    """Errors in the file that holds standard input are about standard input."""
    try:
        yield
    except DataError as error:
        raise DataError(_named(error.message, source), error.hint) from error


def _standard_input() -> bytes:
    """Standard input as bytes: a text stream would take every carriage return for the end of a line."""
    binary = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read().encode() if binary is None else binary.read()


def _typed(texts: list[str], columns: int) -> list[Any]:
    """The texts of ``--text``: each by itself, or two by two."""
    if columns == 1:
        return texts
    if len(texts) % 2:
        raise DataError("this model reads pairs of texts", "give --text twice for each pair")
    return list(zip(texts[::2], texts[1::2], strict=True))


def _lines(lines: list[str], columns: int) -> list[Any]:
    if not lines:
        raise DataError("standard input is empty", "give one text a line")
    if columns == 1:
        return lines
    pairs = [tuple(line.split("\t")) for line in lines]
    for number, pair in enumerate(pairs, start=1):
        if len(pair) != 2:
            raise DataError(
                f"standard input, line {number}: {counted(len(pair), 'text')}",
                "this model reads two, with a tab between them",
            )
    return pairs
