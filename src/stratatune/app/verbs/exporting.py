"""``stratatune export``: a trained run in a form that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stratatune.app.door import Answer, Door, verb
from stratatune.errors import ConfigError


def _forms() -> str:
    """The help of ``--to``."""
    from stratatune.exits.registry import EXITS

    named = (
        f"{one.name} ({one.summary}{f'; needs the extra {one.extra}' if one.extra else ''})" for one in EXITS.values()
    )
    return f"One of: {', '.join(named)}."


@verb()
def export(
    door: Door,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its adapter folder.")],
    out: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    to: Annotated[str, typer.Option(help=_forms(), metavar="FORM")] = "peft",
    base: Annotated[
        str | None, typer.Option(help="Where the base model is now, when it has moved.", show_default=False)
    ] = None,
) -> Answer:
    """Write a trained run in a form that other tools read; `stratatune list exits` shows the forms.

    A plan that has no such form is refused, with the reason for each of its methods that has none.
    """
    from stratatune.exits.registry import exit_of
    from stratatune.training.settings import check_folder

    form = exit_of(to)
    if wrong := check_folder("out", str(out)):
        raise ConfigError([wrong])
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError([f"out: {out} is not empty"], "choose a new folder")
    from stratatune.exits.export import check
    from stratatune.files import new_folder
    from stratatune.model.artefact import load_artefact

    artefact = load_artefact(run, base)
    data = {"out": str(out), "to": to, "plan": artefact.record["plan"], "base": artefact.record["base"]["name"]}
    door.reporter().notice_once(artefact.notices)
    check(artefact.model.attached, to)
    with new_folder(out) as folder:
        form.write(artefact.model, artefact.tokenizer, folder)
    return Answer(data, note=f"wrote {out}; read it with {form.reader.format(out=str(out))}")
