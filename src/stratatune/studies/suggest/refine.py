"""``suggest --refine``: successive halving over real short trials, by Optuna (extra ``search``).

A trial is a plan and a rate. It trains on a ninth of the rows, on a third, on all (``--samples`` at most), but never on
fewer rows than there are classes; after each it goes on only if it is among the best third of those that got as far
(asynchronous successive halving). The first trial is the rule's own plan, then a tree-structured Parzen estimator
draws. Trials of one depth share their trunk caches. With a folder the study is a SQLite file there, and a stopped
search goes on.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune._compat import needs_extra
from stratatune.errors import ConfigError, NotFiniteError
from stratatune.files import make_folder
from stratatune.hashing import digest_of_json, fast_digest
from stratatune.objectives.registry import smaller_is_better
from stratatune.studies.suggest.choosing import INSERTIONS, plan_text, width_of
from stratatune.studies.suggest.suggestion import Asked, Suggestion
from stratatune.studies.suggest.view import View
from stratatune.training.config import NO_NUMBER

if TYPE_CHECKING:
    import optuna

    from stratatune.data.readers import Table
    from stratatune.progress import Reporter
    from stratatune.training.config import RunConfig

FILE = "refine.sqlite"
WORK = ".refine"
"""The folder inside the study's for what is deleted in the end: the run of a trial, and trunk caches."""
RUNGS = (1, 3, 9)
"""Shares of the rows that a trial trains on, as multiples of one ninth."""
_WIDTHS = (4, 8, 16, 32, 64)
_AROUND = 10
"""The factor of the usual rate, or of a given one, up to which and down to which rates are drawn."""
_UNSIZED = ("full",)
"""Families whose plans have no width."""
_EPOCHS = 2
_SPACE = "space"  # of a study: what its first call searches, as depths and widths may depend on measured seconds
_DIVERGED = "diverged"  # of a trial: where its numbers ceased to be finite


def check_search() -> None:
    """Refuse, before anything is read, if a search cannot be made.

    Raises:
        ResourceError: Optuna is not installed.
    """
    with needs_extra("search", "--refine"):
        import optuna  # noqa: F401


def refine(
    found: Suggestion,
    asked: Asked,
    *,
    least: int,
    data: str,
    folder: Path | None,
    tables: Mapping[str, Any],
    reporter: Reporter,
) -> Suggestion:
    """The suggestion after a search: the best trial that saw all rows, and every trial in :attr:`Suggestion.trials`.

    Args:
        found: the rule's proposal.
        asked: the request; the study shall hold its ``trials`` in the end, those of an earlier search counted.
        least: the fewest rows that a trial may train on.
        data: the hash of the data, from :func:`digest_of`.
        folder: the folder of the study; None: the study is in memory, and gone afterwards.
        tables: data in memory, as for a run.
        reporter: gets a line about each trial.

    Raises:
        ResourceError: Optuna is not installed, or the folder cannot be written.
        ConfigError: ``folder`` holds another search.
        NotFiniteError: every trial diverged; one that does is passed over.
    """
    check_search()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _place(folder) as place:
        study = _study(found, asked, data, folder)
        untested = {name: one for name, one in tables.items() if name != "test"}
        search = _Search(found, study.user_attrs[_SPACE], place, untested, least)
        done = sum(_is_done(trial) for trial in study.trials)
        if not done:
            study.enqueue_trial(search.space["start"], user_attrs={"rule": True})
        for _ in range(max(0, asked.trials - done)):
            study.optimize(search.run, n_trials=1, catch=(NotFiniteError,))
            last = study.trials[-1]
            scores = f"{_scores(last)} {last.user_attrs.get(_DIVERGED, '')}".strip()
            reporter.say(f"trial {last.number}: {last.user_attrs['plan']} at {last.params['lr']:.1e}  {scores}")
        return _settled(found, study, search)


class _Search:
    """How a point of a search's space is scored."""

    def __init__(
        self, found: Suggestion, space: Mapping[str, Any], place: Path, tables: Mapping[str, Any], least: int
    ) -> None:
        self.found, self.space, self.place, self.tables, self.least = found, space, place, tables, least
        self.view: View = next(one for one in found.views if one.family == space["family"])
        self.insertions = space["insertions"]

    def run(self, trial: optuna.Trial) -> float:
        """Train the trial's plan rung by rung; the score of the last."""
        import optuna

        widths, usual = self.space["widths"], self.found.config.lr
        insertion = trial.suggest_categorical("insertion", self.insertions) if self.view.family == "bft" else ""
        depth = trial.suggest_int("depth", *self.space["depths"])
        width = trial.suggest_categorical("width", widths) if widths else 0
        rate = trial.suggest_float("lr", usual / _AROUND, usual * _AROUND, log=True)
        gap = self.view.found.depth - self.view.found.frozen
        text = plan_text(self.view.family, depth, width, gap=gap, insertion=insertion, experts=self.view.experts)
        trial.set_user_attr("plan", text)
        score = 0.0
        for rung in RUNGS:
            try:
                score = self._train(text, rate, rung)
            except NotFiniteError as error:
                trial.set_user_attr(_DIVERGED, error.message)
                raise
            trial.report(score, rung)
            if rung < RUNGS[-1] and trial.should_prune():
                raise optuna.TrialPruned
        return score

    def _train(self, text: str, rate: float, rung: int) -> float:
        from stratatune.progress import Reporter
        from stratatune.training.run import train

        out = self.place / "trial"
        shutil.rmtree(out, ignore_errors=True)
        config = self.settings(text, rate, rung, out)
        result = train(config, tables=self.tables, reporter=Reporter(quiet=True))
        shutil.rmtree(out, ignore_errors=True)
        return result.best[self.view.metric]

    def settings(self, text: str, rate: float, rung: int, out: Path) -> RunConfig:
        """The settings of a rung's run. Without evaluation data, a fifth of the training data is held out."""
        given = self.found.config
        rows = max(1, self.least, self.found.samples * rung // RUNGS[-1])
        changed: dict[str, Any] = {"plan": text, "lr": rate, "train_samples": rows, "out": str(out), "test": None}
        changed |= {"epochs": min(given.epochs, _EPOCHS), "metric": self.view.metric}
        if given.eval is None and given.eval_split is None:
            changed["eval_split"] = 0.2
        if given.cache == "auto":
            changed["cache"] = str(self.place / "cache")
        return given.model_copy(update=changed)


def _space(found: Suggestion) -> dict[str, Any]:
    """The space around the rule's own plan, as plain data.

    Returns:
        ``family``; the first and the last of the ``depths``; ``widths``, empty for plans without one; ``insertions``;
        ``start``, the rule's own plan as a point.
    """
    view = found.views[0]
    depths = sorted(one.depth for one in view.candidates if not one.over and one.depth < found.blocks)
    depths = depths or [found.depth]
    own = width_of(view.family, view.hidden, view.classes)
    limited = any(one.over for one in view.candidates)
    widths = sorted({one for one in _WIDTHS if one <= own or not limited} | {own})
    start: dict[str, Any] = {"depth": found.depth, "lr": found.config.lr}
    if view.family in _UNSIZED:
        widths = []
    else:
        start["width"] = own
    if view.family == "bft":
        start["insertion"] = INSERTIONS[0]
    insertions = INSERTIONS[:1] if limited else INSERTIONS  # a late prompt takes more than the adapter that was priced
    space = {"depths": [depths[0], depths[-1]], "widths": widths, "insertions": list(insertions), "start": start}
    return {"family": view.family, **space}


@contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    """The folder in which trials run and caches lie: inside the one given, or a temporary one."""
    if folder is None:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)
        return
    # By a name of its own: the user's folder may hold a run that is called trial, or caches.
    make_folder(folder)
    yield folder / WORK  # made by the first trial
    shutil.rmtree(folder / WORK, ignore_errors=True)


def _study(found: Suggestion, asked: Asked, data: str, folder: Path | None) -> optuna.Study:
    """The study, continued if the folder has one."""
    import optuna

    name = _name(found, asked, data)
    storage = None if folder is None else f"sqlite:///{folder / FILE}"
    others = optuna.get_all_study_names(storage) if storage else []  # none in the file of a call that was killed early
    if others and name not in others:
        raise ConfigError(
            [f"out: {folder} holds a search with other settings, data or base weights"],
            "choose another --out, or remove it",
        )
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        load_if_exists=True,
        direction="minimize" if smaller_is_better(found.views[0].metric) else "maximize",
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNGS[0], reduction_factor=RUNGS[1] // RUNGS[0]),
    )
    if _SPACE not in study.user_attrs:
        study.set_user_attr(_SPACE, _space(found))
    # Another seed each time it goes on, or the sampler would draw its first points again.
    study.sampler = optuna.samplers.TPESampler(seed=found.config.seed + len(study.trials))
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):  # of a search that was killed
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def digest_of(tables: Iterable[Table]) -> str:
    """A hash of data as read: a search goes on only with those that it began with, whatever they are called."""
    parts = ((one.texts, one.labels, sorted(one.further.items())) for one in tables)
    return fast_digest(repr(part) for part in parts)


def _name(found: Suggestion, asked: Asked, data: str) -> str:
    """A hash of everything that a trial's score depends on besides its point, and of what limits the points."""
    config = {k: v for k, v in found.config.model_dump(mode="json").items() if k not in (*NO_NUMBER, "plan")}
    limits = [asked.family, asked.samples, asked.budget_seconds, asked.budget_memory]
    # The model by what it holds, too: other weights may lie at the same path now.
    return digest_of_json([config, limits, data, found.views[0].base], size=8)


def _is_done(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial counts: a diverged one does, a stopped one does not."""
    return trial.state.name in ("COMPLETE", "PRUNED") or _DIVERGED in trial.user_attrs


def _scores(trial: optuna.trial.FrozenTrial) -> str:
    return " ".join(f"{value:.4f}" for _, value in sorted(trial.intermediate_values.items()))


def _settled(found: Suggestion, study: optuna.Study, search: _Search) -> Suggestion:
    """Replace the rule's plan and rate by the best trial's."""
    import optuna

    if not study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
        raise NotFiniteError("every trial of the search diverged", "look at the data and the base model")
    best, sign = study.best_trial, -1 if smaller_is_better(search.view.metric) else 1
    ended = study.get_trials(states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED))
    ended.sort(key=lambda one: (len(one.intermediate_values), sign * _last(one)), reverse=True)
    own = next((one for one in ended if one.user_attrs.get("rule")), None)
    plan, rate = best.user_attrs["plan"], best.params["lr"]
    line = (
        f"{len(ended)} trials by successive halving: {plan} at rate {rate:.1e} is best, {search.view.metric} "
        f"{_last(best):.4f}; the rule's own plan "
    )
    if own is None:
        line += "diverged"
    else:
        rows = f"{max(own.intermediate_values)}/{RUNGS[-1]} of the rows"
        line += f"at {own.params['lr']:.1e} reached {_last(own):.4f} with {rows}"
    config = found.config.model_copy(update={"plan": plan, "lr": rate})
    trials = tuple(_as_data(one) for one in ended)
    own_first = tuple(sorted(found.views, key=lambda one: one is not search.view))
    found = replace(found, family=search.view.family, views=own_first, why=(*found.why, line))
    return replace(found, plan=plan, depth=best.params["depth"], config=config, trials=trials)


def _last(trial: optuna.trial.FrozenTrial) -> float:
    """The score of the highest rung that the trial reached."""
    return trial.intermediate_values[max(trial.intermediate_values)]


def _as_data(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """A trial as plain data."""
    return {
        "number": trial.number,
        "plan": trial.user_attrs["plan"],
        "lr": trial.params["lr"],
        "scores": {f"{rung}/{RUNGS[-1]}": value for rung, value in sorted(trial.intermediate_values.items())},
        "state": trial.state.name.lower(),
    }
