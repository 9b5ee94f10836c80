"""``stratatune export``: write a trained run in a form that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stratatune.app.door import Answer, Door, verb
from stratatune.errors import ConfigError, shown
from stratatune.files import check_empty, new_folder, write_text


def _forms() -> str:
    """The help of ``--to``."""
    from stratatune.exits.registry import EXITS

    named = (
        f"{one.name} ({one.summary}{f'; needs the extra {one.extra}' if one.extra else ''})" for one in EXITS.values()
    )
    return f"One of: {', '.join(named)}."


def smaller(
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="With --to onnx: write int8 matrices, a quarter of the size, and show what that costs."
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            help="With --int8: labelled data to score both precisions; default: the run's own evaluation data.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Which split of --data, of a folder or a hub id.", show_default=False)
    ] = None,
) -> dict[str, Any]:
    """The group of options for a smaller form."""
    if not int8 and (data or split):
        raise ConfigError([f"{'data' if data else 'split'}: only used with --int8"], "leave it out, or add --int8")
    return {"int8": int8, "data": data, "split": split}


def hub(
    push: Annotated[
        str | None,
        typer.Option(metavar="USER/NAME", help="Upload the exported folder to the hub.", show_default=False),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: make the repository private.")] = False,
) -> dict[str, Any]:
    """The group of options for an upload to the hub."""
    if push:
        from stratatune.hub import check_id

        check_id(push)
    if private and not push:
        raise ConfigError(["private: only used with --push"], "add --push USER/NAME, or leave it out")
    return {"push": push, "private": private}


def _left_behind(spec: dict[str, Any]) -> str:
    """The part of the run's own answers that no stock tool gives; empty where there is none."""
    labels = spec.get("labels") or []
    if spec.get("objective") == "classification" and spec.get("threshold") is not None and len(labels) > 1:
        return (
            f"the run predicts {shown(labels[1])} from a probability of {spec['threshold']:.3f} on; "
            "other tools predict the likelier class"
        )
    if spec.get("ordinal"):
        return f"the classes are ordered: the model has {len(labels) - 1} outputs, described in docs/objectives.md"
    if spec.get("objective") == "span":
        apart = spec["threshold"] if spec.get("unanswerable") else 0.0
        how = "the run predicts no answer where its logit is more than"
        return f"{how} {apart:.3f} above the best span's; other tools compare the two" if apart else ""
    if any(value != 0.5 for one in (spec, *spec.get("heads", ())) for value in _thresholds(one)):
        return "the run's own thresholds stay in adapter.json; other tools give probabilities, or use 0.5"
    return ""


def _thresholds(head: dict[str, Any]) -> list[float]:
    """The thresholds at which an objective gives its labels."""
    several, single = head.get("thresholds"), head.get("threshold")
    return list(several or ([] if single is None else [single]))


@verb(smaller=smaller, hub=hub)
def export(
    door: Door,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its adapter folder.")],
    out: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    smaller: dict[str, Any],
    hub: dict[str, Any],
    to: Annotated[str, typer.Option(help=_forms(), metavar="FORM")] = "peft",
    base: Annotated[
        str | None, typer.Option(help="Where the base model is now, if it has moved.", show_default=False)
    ] = None,
    trunk: Annotated[
        str, typer.Option(help="resident (in memory), streamed (from the checkpoint) or auto (as it fits).")
    ] = "auto",
) -> Answer:
    """Write a trained run in a format that other tools read; `stratatune list exits` shows the formats.

    A plan that the format cannot hold is refused, with the reason for each of its methods.
    """
    from stratatune.exits.registry import exit_of
    from stratatune.training.settings import check_folder

    form = exit_of(to)
    if smaller["int8"] and to != "onnx":
        raise ConfigError([f"int8: the format {to!r} has no int8"], "legal: --to onnx --int8")
    if wrong := check_folder("out", str(out)):
        raise ConfigError([wrong])
    check_empty("out", out)
    from stratatune.app.card import card
    from stratatune.exits.export import check
    from stratatune.hub import fetched
    from stratatune.model.artefact import load_artefact
    from stratatune.training.streaming import trunk_of_saved

    run = str(fetched(run))
    if form.whole and trunk == "streamed":
        raise ConfigError([f"trunk: 'streamed'; {to} needs the whole model in memory"], "use --trunk resident")
    streamed = trunk_of_saved(run, base, trunk, None, device="cpu") is not None and not form.whole
    artefact = load_artefact(run, base, pack=False, unread=streamed)
    data: dict[str, Any] = {"out": str(out), "to": to}
    data |= {"plan": artefact.record["plan"], "base": artefact.record["base"]["name"]}
    door.reporter().notice_once(artefact.notices)
    attached = artefact.model.attached
    check(attached, to)
    if to not in ("native", "onnx") and (line := _left_behind(attached.spec)):
        door.reporter().notice(line)
    said = card(Path(run), attached, data["base"], form, hub["push"] or out.name)
    note = ""
    with new_folder(out) as folder:
        form.write(artefact.model, artefact.tokenizer, folder)
        write_text(folder / "README.md", said)
        if smaller["int8"]:
            from stratatune.training.quantised import quantised

            found = quantised(folder, Path(run), smaller["data"], smaller["split"])
            data["int8"], note = found.to_json(), f"{found}\n"
    note += f"wrote {out}; read it with {form.reader.format(out=str(out))}"
    if hub["push"]:
        from stratatune.hub import push

        data["url"] = push(out, hub["push"], private=hub["private"])
        note = f"{note}\npushed to {data['url']}"
    return Answer(data, note=note)
