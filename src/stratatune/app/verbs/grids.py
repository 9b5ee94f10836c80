"""``stratatune grid``: the runs of a recipe, and their results. Nothing here imports torch: the workers do."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from stratatune.app.door import Answer, Door, app, verb
from stratatune.app.run_options import remote_code
from stratatune.errors import ConfigError, counted, did_you_mean

if TYPE_CHECKING:
    from stratatune.studies.grid.engines import Engine
    from stratatune.studies.grid.expand import Planned
    from stratatune.studies.grid.records import RunRecord


class _RunByDefault(TyperGroup):
    """``grid RECIPE.yaml ...`` is ``grid run RECIPE.yaml ...``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


group = typer.Typer(no_args_is_help=True, cls=_RunByDefault)
app.add_typer(group, name="grid", help="Many runs from one recipe: grid RECIPE.yaml --out DIR; ls, show, rm, export.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The grid folder.", show_default=False)]


def _option(meaning: str, metavar: str, *names: str) -> Any:
    return typer.Option(*names, help=meaning, metavar=metavar, show_default=False)


@verb(of=group, interrupted="run the same command again to continue")
def run(
    door: Door,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe.", show_default=False)],
    out: Annotated[Path | None, _option("The grid folder.", "DIR")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for many machines.", metavar="WORD")] = "local",
    address: Annotated[
        str | None, _option("ray: the cluster's address; without it, Ray starts on this machine.", "HOST:PORT")
    ] = None,
    jobs: Annotated[int | None, _option("Runs at a time; by default one per GPU, or one without a GPU.", "N")] = None,
    data: Annotated[list[str] | None, _option("Where the data are.", "[NAME=]DIR")] = None,
    model: Annotated[list[str] | None, _option("Where a model is.", "NAME=PLACE")] = None,
    only: Annotated[list[str] | None, _option("Only these runs; repeatable.", "AXIS=NAME")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run, without running it.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed runs again.")] = False,
) -> Answer:
    """Train every run of a recipe that is not done yet, then print its table and write its report.

    `grid RECIPE.yaml` is the same as `grid run RECIPE.yaml`.
    """
    from stratatune.studies.grid.book import FILE
    from stratatune.studies.grid.expand import expand, ids_at
    from stratatune.studies.grid.recipe import load_recipe, settled
    from stratatune.studies.grid.records import earlier_said, read_records

    if jobs is not None and jobs < 1:
        raise ConfigError([f"--jobs {jobs}: must be at least 1"], "for example --jobs 2")
    asked = load_recipe(recipe)
    where = dict(_pair(text, "") for text in data or [])
    models = dict(_pair(text, "--model {}: write NAME=PLACE") for text in model or [])
    asked, notice = settled(asked, recipe, where)
    if notice:
        door.reporter().notice(notice)
    there = read_records(out, earlier=True)[1] if out is not None and (out.expanduser() / FILE).is_file() else []
    done = [one.config for one in there if one.status == "done"]
    runs = expand(asked, recipe.parent, data=where, models=models, only=_only(only or []), done=done)
    for trusted in dict.fromkeys(one.config.model for one in runs if one.config.trust_remote_code):
        door.reporter().notice(remote_code(recipe, trusted))
    if dry_run:
        return _planned(runs, out)
    if out is None:
        raise ConfigError(["--out is missing: the folder for the runs"], "add --out runs/NAME, or --dry-run")
    from stratatune.app.run_report import leave_report
    from stratatune.studies.grid.grid import run_grid
    from stratatune.studies.report import report_on
    from stratatune.studies.report.plain import plain

    made, out, reporter = _engine(engine, address, jobs), out.expanduser(), door.reporter()
    places = [one.coordinates for one in there] if only else []
    beside = ids_at(asked, recipe.parent, places, data=where, models=models, done=done)
    tally = run_grid(runs, asked, out, made, retry_failed=retry_failed, beside=beside, reporter=reporter)
    leave_report(out, reporter)
    failed = [{"id": name, "error": error} for name, error in tally.failed.items()]
    answer = {"out": str(out), "runs": len(runs), "ran": tally.ran, "skipped": tally.skipped, "failed": failed}
    note = f"{tally.ran} ran, {tally.skipped} were done before, {len(failed)} failed; the report: {out / 'report.html'}"
    if failed:
        note += "; --retry-failed runs them again"
    if said := earlier_said(tally.earlier):
        note += f"; {said.rstrip('.')}"
    answer |= {"caches": tally.caches, "seconds": tally.seconds, "earlier": tally.earlier, "stale": tally.stale}
    return Answer(answer, plain(report_on(out)), note, exit_code=int(bool(failed)))


def _engine(name: str, address: str | None, jobs: int | None) -> Engine:
    from stratatune.studies.grid.engines import LocalEngine

    if name == "ray":
        from stratatune.studies.grid.ray_engine import RayEngine

        return RayEngine(address, jobs)
    if name != "local":
        raise ConfigError([f"--engine {name!r}"], did_you_mean(name, ("local", "ray")))
    if address:
        raise ConfigError([f"--address {address}: only the engine ray has an address"], "add --engine ray")
    return LocalEngine(jobs)


def _pair(text: str, refusal: str) -> tuple[str, str]:
    """Split ``NAME=PLACE``; a place alone, with an empty name, is legal if ``refusal`` is empty."""
    name, equals, place = text.partition("=")
    if equals and name and place:
        return name, place
    if refusal or not text:
        raise ConfigError([(refusal or "--data {}: no folder").format(text)], "see `stratatune grid run --help`")
    return "", text


def _only(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    wanted: dict[str, tuple[str, ...]] = {}
    for axis, name in (_pair(text, "--only {}: write AXIS=NAME") for text in texts):
        wanted[axis] = (*wanted.get(axis, ()), name)
    return wanted


def _planned(runs: Sequence[Planned], out: Path | None) -> Answer:
    """The runs of a dry run, a line each, and the number of trunks that they share."""
    from stratatune.studies.grid.book import FILE
    from stratatune.studies.grid.records import read_records

    there = read_records(out, earlier=True)[1] if out and (out / FILE).is_file() else []
    status = {record.id: record.status for record in there}
    rows = [
        {"id": run.id, "status": status.get(run.id, "waiting"), **run.coordinates, "trunk": run.trunk} for run in runs
    ]
    lines = [f"{row['id']}  {row['status']:<8} {_at(run.coordinates)}" for row, run in zip(rows, runs, strict=True)]
    done, trunks = sum(row["status"] == "done" for row in rows), len({run.trunk for run in runs if run.trunk})
    note = f"{counted(len(runs), 'run')}, {done} done; {counted(trunks, 'shared trunk')}; nothing was run"
    return Answer({"runs": rows, "trunks": trunks}, "\n".join(lines), note)


def _at(coordinates: Any) -> str:
    return " ".join(f"{axis}={name}" for axis, name in coordinates.items())


@verb(of=group)
def ls(door: Door, folder: Folder) -> Answer:
    """List the runs of a grid, with their status and scores."""
    from stratatune.studies.grid.runs_table import row_of

    records = _records(folder)
    lines = [
        f"{one.id}  {one.status:<8} {_at(one.coordinates)}{_scored(one)}{'' if one.current else '  (earlier settings)'}"
        for one in records
    ]
    kinds = ("done", "running", "stopped", "waiting", "failed")
    counts = {kind: sum(one.status == kind for one in records) for kind in kinds}
    note = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "no runs"
    if gone := sum(not one.current for one in records):
        note += f"; {gone} of earlier settings, in no report"
    rows = [{**row_of(record), "current": record.current} for record in records]
    return Answer(rows, "\n".join(lines), note)


def _records(folder: Path) -> list[RunRecord]:
    from stratatune.studies.grid.book import FILE
    from stratatune.studies.grid.records import read_records

    if not (folder / FILE).is_file():
        raise ConfigError([f"{folder}: is not a grid folder"], "`stratatune grid RECIPE.yaml --out DIR` starts one")
    return read_records(folder, earlier=True)[1]


def _scored(record: RunRecord) -> str:
    best = (record.result or {}).get("best", {})
    return "".join(f"  {name} {value:.4f}" for name, value in best.items()) + (
        f"  {record.error}" if record.error else ""
    )


@verb(of=group)
def show(
    door: Door,
    folder: Folder,
    run: Annotated[str, typer.Argument(metavar="ID", help="The start of a run's id.", show_default=False)],
) -> Answer:
    """Show one run: its settings, its result or error, its folder, and the command that trains it again."""
    from stratatune.training.settings import dump

    (record,) = _chosen(_records(folder), [run], folder)
    data = {name: value for name, value in vars(record).items() if name not in ("folder", "history")}
    data |= {"folder": str(record.folder), "epochs": record.history}
    shown = {name: value for name, value in data.items() if value and name not in ("environment",)}
    return Answer(data, dump(shown))


@verb(of=group)
def rm(
    door: Door,
    folder: Folder,
    runs: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Ids, or the start of them.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Every run that failed.")] = False,
    changed: Annotated[
        bool, typer.Option("--changed", help="Every finished run whose data or model changed since it read them.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Every run.")] = False,
) -> Answer:
    """Remove runs from a grid, and their folders; running the recipe again trains them again."""
    from stratatune.studies.grid.book import Store
    from stratatune.studies.grid.grid import remove_runs, stale

    records = _records(folder)
    if failed + changed + everything + bool(runs) != 1:
        several = "choose runs by one of ids, --failed, --changed and --all"
        said = several if failed or changed or everything or runs else "no runs were named"
        hint = "give ids (`stratatune grid ls DIR` lists them), --failed, --changed or --all"
        raise ConfigError([f"grid rm: {said}"], hint)
    if runs:
        names = [record.id for record in _chosen(records, runs, folder)]
    elif changed:
        with Store.open(folder) as store:
            found = stale(store, (one.id for one in records if one.status == "done"))
        names = list(dict.fromkeys(run for several in found.values() for run in several))
    else:
        names = [one.id for one in records if everything or one.status == "failed"]
    remove_runs(folder, names)
    return Answer({"removed": names}, note=f"removed {len(names)}")


def _chosen(records: Sequence[RunRecord], beginnings: Sequence[str], folder: Path) -> list[RunRecord]:
    """The one run that each beginning of an id stands for.

    Raises:
        ConfigError: none or several begin so.
    """
    found: list[RunRecord] = []
    for beginning in beginnings:
        matching = [record for record in records if record.id.startswith(beginning)]
        if len(matching) != 1:
            raise ConfigError(
                [f"{len(matching)} runs of {folder} match {beginning!r}"],
                f"`stratatune grid ls {shlex.quote(str(folder))}` has the ids",
            )
        found += matching
    return found


@verb(of=group)
def export(
    door: Door,
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", help="The file to write.", metavar="FILE", show_default=False)],
    format: Annotated[str | None, _option("csv or parquet; by default, that of the file's suffix.", "WORD")] = None,
) -> Answer:
    """Write the runs of a grid as one table, one row per run; runs of earlier settings are left out."""
    from stratatune.studies.grid.records import earlier_said
    from stratatune.studies.grid.runs_table import FORMATS
    from stratatune.studies.grid.runs_table import export as write

    form = (format or out.suffix.removeprefix(".")).lower()
    if form not in FORMATS:
        raise ConfigError([f"--format {form!r}: no such format"], did_you_mean(form, FORMATS))
    every = _records(folder)
    records = [one for one in every if one.current]
    write(records, out, form)  # pyright: ignore[reportArgumentType] - one of FORMATS
    note = f"{counted(len(records), 'run')} in {out}"
    if said := earlier_said(len(every) - len(records)):
        note += f"; {said.rstrip('.')}"
    return Answer({"n": len(records), "out": str(out)}, note=note)
