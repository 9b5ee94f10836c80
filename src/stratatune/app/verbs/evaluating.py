"""``stratatune eval``: score a trained adapter, or measure what the model forgot."""

from __future__ import annotations

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
from stratatune.data.written import Written
from stratatune.errors import ConfigError


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
    check_split(split, data)
    if data is None and threshold is not None:
        raise ConfigError([f"threshold: {threshold:g}; there are no data to score"], "give --data, or leave it out")
    if data is None and (corpus or corpus_column):
        raise ConfigError(["corpus: there are no data to search it with"], "give --data, or leave it out")
    unread = () if data is not None else ("delimiter", "encoding", "column", "bad_rows")
    check_form(form, data, unread, "that of labelled data", "give --data")
    if forgetting is not None:
        _check_alone(where)
    from stratatune.objectives.by_class import shown as classes

    answer: dict[str, Any] = {}
    shown_lines: list[str] = []
    if data is not None:
        check_data(data)
        if corpus is not None:
            check_data(corpus, "corpus")
        predictor = predictor_of(door, run, where, threshold)
        with hinting_at_column(predictor):
            answer |= predictor.score(data, split=split, corpus=corpus, corpus_column=corpus_column, written=form)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in answer["metrics"].items())
        shown_lines += [f"{shown}  (n = {answer['n']:,})", *filter(None, [classes(answer.get("by_class", {}))])]
        door.reporter().notice_once(answer["notices"])
    if forgetting is not None:
        check_data(forgetting)
        answer["forgetting"] = lost = _forgetting(run, forgetting, where)
        shown_lines.append(
            f"{lost['objective']} loss on plain text: base {lost['base']:.4f}, tuned {lost['tuned']:.4f}, "
            f"difference {lost['difference']:+.4f}  ({lost['tokens']:,} tokens)"
        )
    return Answer(answer, "\n".join(shown_lines))


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
