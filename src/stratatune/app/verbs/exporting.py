"""``stratatune export``: a trained run in a form that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stratatune.app.door import Answer, Door, verb
from stratatune.errors import ConfigError, did_you_mean

FORMS = {
    "peft": "peft.PeftModel.from_pretrained(base, {out!r})",
    "merged": "transformers' from_pretrained({out!r})",
}


@verb()
def export(
    door: Door,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its adapter folder.")],
    out: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    to: Annotated[str, typer.Option(help="peft (a stock adapter) or merged (a plain transformers model).")] = "peft",
    base: Annotated[
        str | None, typer.Option(help="Where the base model is now, when it has moved.", show_default=False)
    ] = None,
) -> Answer:
    """Write a trained run as a stock peft adapter, or merged into a plain transformers folder.

    A plan that has no such form is refused, with the reason for each of its methods that has none.
    """
    from stratatune.training.settings import check_folder

    if to not in FORMS:
        raise ConfigError([f"to: {to!r}"], did_you_mean(to, FORMS))
    if wrong := check_folder("out", str(out)):
        raise ConfigError([wrong])
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError([f"out: {out} is not empty"], "give a new folder")
    from stratatune.exits.export import write
    from stratatune.model.artefact import load_artefact

    artefact = load_artefact(run, base)
    data = {"out": str(out), "to": to, "plan": artefact.record["plan"], "base": artefact.record["base"]["name"]}
    write(artefact.model, out, to)
    artefact.tokenizer.save_pretrained(out)
    return Answer(data, note=f"wrote {out}; read it with {FORMS[to].format(out=str(out))}")
