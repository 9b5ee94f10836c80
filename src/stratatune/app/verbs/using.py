"""``stratatune eval`` and ``stratatune predict``: use a trained adapter."""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stratatune.app.door import Answer, Door, verb
from stratatune.data.lines import decode, lines_of
from stratatune.data.source_form import check_delimiter
from stratatune.data.written import AS_USUAL, Written
from stratatune.errors import ConfigError, DataError, MissingColumn, counted, cut

if TYPE_CHECKING:
    from stratatune.training.predict import Predictor

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="The folder of a run, of its adapter, or of an ONNX export.", show_default=False
    ),
]
Split = Annotated[str | None, typer.Option(help="Which split of a folder or a hub id.", show_default=False)]


Threshold = Annotated[
    float | None,
    typer.Option(
        help="Score from which on a label (multilabel) or the second of two classes (classification) is predicted, "
        "instead of the threshold from training.",
        metavar="P",
        show_default=False,
    ),
]


class Form(str, Enum):
    """The format of standard input or standard output."""

    text = "text"
    csv = "csv"
    jsonl = "jsonl"


def machine(
    base: Annotated[
        str | None, typer.Option(help="Where the base model is now, if it has moved.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16 or auto; by default, as trained.", show_default=False)
    ] = None,
    trunk: Annotated[
        str, typer.Option(help="resident (in memory), streamed (from the checkpoint) or auto (as it fits).")
    ] = "auto",
    memory_limit: Annotated[
        str | None,
        typer.Option(
            help="Memory that the process may use, such as 6GB; by default, what is free.", show_default=False
        ),
    ] = None,
    eval_batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Examples that run through the model at once; by default 64, or 16 if text is generated.",
            metavar="N",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="torch, or onnx for a folder that `export --to onnx` wrote; by default, what the folder needs.",
            show_default=False,
        ),
    ] = None,
) -> dict[str, Any]:
    """The group of options for the device and memory of a trained adapter."""
    if precision not in (None, "fp32", "bf16", "auto"):
        raise ConfigError([f"precision: {precision!r}"], "legal: fp32, bf16, auto")
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise ConfigError([f"device: {device!r}"], "legal: auto, cpu, cuda, mps")
    if trunk not in ("auto", "resident", "streamed"):
        raise ConfigError([f"trunk: {trunk!r}"], "legal: auto, resident, streamed")
    if engine not in (None, "torch", "onnx"):
        raise ConfigError([f"engine: {engine!r}"], "legal: torch, onnx")
    where: dict[str, Any] = {"base": base, "device": device, "precision": precision}
    where |= {"trunk": trunk, "memory_limit": memory_limit, "eval_batch_size": eval_batch_size}
    return {**where, "engine": engine}


def written(
    bad_rows: Annotated[
        str, typer.Option(help="Rows with a blank text (eval: or without a label): refuse, skip or empty.")
    ] = "refuse",
    delimiter: Annotated[
        str | None,
        typer.Option(
            help="Column separator of csv and tsv files: a character, or tab; detected by default.", show_default=False
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="Encoding of text files; default: by their byte-order mark, else UTF-8.", show_default=False),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="A column that has another name here than in training, as NAME=ITS_NAME_HERE; repeatable.",
            metavar="NAME=HERE",
            show_default=False,
        ),
    ] = None,
) -> Written:
    """The group of options for the format of data."""
    pairs = [one.partition("=") for one in column or ()]
    for one, (name, _, here) in zip(column or (), pairs, strict=True):
        if not (name and here):
            raise ConfigError([f"column: {one!r}"], "write NAME=ITS_NAME_HERE, such as --column text=review")
    columns = tuple((name, here) for name, _, here in pairs)
    return Written(delimiter, encoding, bad_rows, columns)  # pyright: ignore[reportArgumentType]  checked there


@verb("eval", where=machine, form=written)
def eval_(
    door: Door,
    run: Run,
    where: dict[str, Any],
    form: Written,
    data: Annotated[
        str | None, typer.Option(help="Labelled data: a file, a folder or a hub id.", show_default=False)
    ] = None,
    split: Split = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="Documents to search besides those of the data, one text per row (vectors).",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    corpus_column: Annotated[
        str | None,
        typer.Option(
            help="The column of the corpus' texts; its only one, or the only one with a usual name, by default.",
            metavar="COL",
            show_default=False,
        ),
    ] = None,
    threshold: Threshold = None,
    forgetting: Annotated[
        str | None,
        typer.Option(
            help="Plain text on which to compare the language-model loss of the tuned and the base model.",
            show_default=False,
        ),
    ] = None,
) -> Answer:
    """Score a trained adapter on labelled data, or measure what the model forgot, or both."""
    if data is None and forgetting is None:
        raise ConfigError(["eval needs data"], "give --data with labelled data, --forgetting with plain text, or both")
    _check_split(split, data)
    if data is None and threshold is not None:
        raise ConfigError([f"threshold: {threshold:g}; there are no data to score"], "give --data, or leave it out")
    if data is None and (corpus or corpus_column):
        raise ConfigError(["corpus: there are no data to search it with"], "give --data, or leave it out")
    unread = () if data is not None else ("delimiter", "encoding", "column", "bad_rows")
    _check_form(form, data, unread, "that of labelled data", "give --data")
    if forgetting is not None:
        _check_alone(where)
    from stratatune.objectives.by_class import shown as classes

    answer: dict[str, Any] = {}
    shown_lines: list[str] = []
    if data is not None:
        _check_data(data)
        if corpus is not None:
            _check_data(corpus, "corpus")
        predictor = _predictor(door, run, where, threshold)
        with _hinting_at_column(predictor):
            answer |= predictor.score(data, split=split, corpus=corpus, corpus_column=corpus_column, written=form)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in answer["metrics"].items())
        shown_lines += [f"{shown}  (n = {answer['n']:,})", *filter(None, [classes(answer.get("by_class", {}))])]
        door.reporter().notice_once(answer["notices"])
    if forgetting is not None:
        _check_data(forgetting)
        answer["forgetting"] = lost = _forgetting(run, forgetting, where)
        shown_lines.append(
            f"{lost['objective']} loss on plain text: base {lost['base']:.4f}, tuned {lost['tuned']:.4f}, "
            f"difference {lost['difference']:+.4f}  ({lost['tokens']:,} tokens)"
        )
    return Answer(answer, "\n".join(shown_lines))


def _check_split(split: str | None, data: str | None) -> None:
    """Refuse a split of nothing that has splits."""
    if split is not None and data in (None, "-"):
        raise ConfigError([f"split: {split!r} is that of a folder or a hub id"], "name it with --data")


def _check_form(form: Written, data: str | None, unread: Sequence[str], why: str, hint: str) -> None:
    """Refuse options for the format of a file that are not read here, and a separator of a file that has none."""
    column = ", ".join(map("=".join, form.columns))
    usual = form.bad_rows == AS_USUAL.bad_rows
    given = {"delimiter": form.delimiter, "encoding": form.encoding, "column": column}
    given["bad_rows"] = None if usual else form.bad_rows
    if odd := [f"{name}: {given[name]!r} is {why}" for name in unread if given[name]]:
        raise ConfigError(odd, f"leave it out, or {hint}")
    check_delimiter(form.delimiter, data or "")


def _check_alone(where: dict[str, Any]) -> None:
    """Refuse options that the comparison with the base model does not have: it loads both models whole."""
    plain = {"precision": None, "trunk": "auto", "memory_limit": None, "eval_batch_size": None, "engine": None}
    odd = [
        f"{name}: {where[name]!r} cannot be used with --forgetting"
        for name, value in plain.items()
        if where[name] != value
    ]
    if odd:
        raise ConfigError(
            odd, "leave it out: both models are loaded whole; to score --data with it, use a separate command"
        )


def _forgetting(run: str, text: str, where: dict[str, Any]) -> dict[str, Any]:
    from stratatune.studies.forgetting import forgetting

    return forgetting(run, text, base=where["base"], device=where["device"])


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
    top_k: Annotated[int | None, _option("Sample from this many most likely tokens; implies --do-sample.")] = None,
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
    predictor = _predictor(door, run, where, threshold)
    columns = predictor.text_columns
    with (
        _source(data, text, in_format, columns, form) as source,
        _called(source if data == "-" else None),
        _hinting_at_column(predictor),
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


def _predictor(door: Door, run: str, where: dict[str, Any], threshold: float | None) -> Predictor:
    from stratatune.training.predict import Predictor

    predictor = Predictor(run, threshold=threshold, **where)
    door.reporter().notice_once(predictor.notices)
    return predictor


def _check_data(data: str, name: str = "data") -> None:
    """Refuse a missing file before torch is imported."""
    from stratatune.training.settings import check_source

    if wrong := check_source(name, data, files=True):
        raise DataError(wrong, "check the path")


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
        _check_data(str(data))
    _check_split(split, data)
    if data is None:
        _check_form(form_of_data, data, ("delimiter", "encoding", "column"), "that of a file", "give --data")
    else:
        lines = data == "-" and in_form is Form.text
        unread = ("delimiter", "column") if lines else ()
        _check_form(form_of_data, data, unread, "that of a table", "add --in-format csv")
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


@contextlib.contextmanager
def _hinting_at_column(predictor: Predictor) -> Iterator[None]:
    """An error about a column of the run that the data lack hints at the option by which it has another name there."""
    try:
        yield
    except MissingColumn as error:
        objective = predictor.objective
        if error.column not in (*objective.text, objective.label):
            raise
        hint = f"{error.hint}; where it has another name: --column {shlex.quote(f'{error.column}=NAME')}"
        raise DataError(error.message, hint) from error


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
