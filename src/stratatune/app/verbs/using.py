"""What ``eval``, ``predict`` and ``serve`` have in common: a trained adapter, its machine, and the form of data."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stratatune.app.door import Door
from stratatune.data.source_form import check_delimiter
from stratatune.data.written import AS_USUAL, Written
from stratatune.errors import ConfigError, DataError, MissingColumn

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


def check_split(split: str | None, data: str | None) -> None:
    """Refuse a split of nothing that has splits."""
    if split is not None and data in (None, "-"):
        raise ConfigError([f"split: {split!r} is that of a folder or a hub id"], "name it with --data")


def check_form(form: Written, data: str | None, unread: Sequence[str], why: str, hint: str) -> None:
    """Refuse options for the format of a file that are not read here, and a separator of a file that has none."""
    column = ", ".join(map("=".join, form.columns))
    usual = form.bad_rows == AS_USUAL.bad_rows
    given = {"delimiter": form.delimiter, "encoding": form.encoding, "column": column}
    given["bad_rows"] = None if usual else form.bad_rows
    if odd := [f"{name}: {given[name]!r} is {why}" for name in unread if given[name]]:
        raise ConfigError(odd, f"leave it out, or {hint}")
    check_delimiter(form.delimiter, data or "")


def predictor_of(door: Door, run: str, where: dict[str, Any], threshold: float | None) -> Predictor:
    """The predictor of a run; its notices are printed once."""
    from stratatune.training.predict import Predictor

    predictor = Predictor(run, threshold=threshold, **where)
    door.reporter().notice_once(predictor.notices)
    return predictor


def check_data(data: str, name: str = "data") -> None:
    """Refuse a missing file before torch is imported."""
    from stratatune.training.settings import check_source

    if wrong := check_source(name, data, files=True):
        raise DataError(wrong, "check the path")


@contextlib.contextmanager
def hinting_at_column(predictor: Predictor) -> Iterator[None]:
    """An error about a column of the run that the data lack hints at the option by which it has another name there."""
    try:
        yield
    except MissingColumn as error:
        objective = predictor.objective
        if error.column not in (*objective.text, objective.label):
            raise
        hint = f"{error.hint}; where it has another name: --column {shlex.quote(f'{error.column}=NAME')}"
        raise DataError(error.message, hint) from error
