"""``--plan auto``: the plan, the rate and the number of epochs of a run, chosen from its training data.

One pass over a sample reads some depths, and a probe of each shows whether the topmost blocks hold the information that
the task needs (``studies/suggest/probing.py``). The plans of ``studies/suggest/candidates.py`` are priced by the cost
model, a race that keeps its share of the work is laid out (``studies/suggest/course.py``), and the winner goes on from
where its trial ended (``training/trials/race.py``). Evaluation and test data are never looked at. Where a race would
cost more than its share (few rows, a single entrant, several processes, a model that does not fit in memory), what is
known beforehand decides.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune.files import write_text
from stratatune.studies.suggest.candidates import (
    MOST_CLASSES,
    PATIENCE,
    Proposal,
    deeper_than,
    epochs_for,
    proposals,
    rows_are_few,
    scaled,
    top_depth,
)
from stratatune.studies.suggest.choosing import adds_below
from stratatune.studies.suggest.chosen import Choice, Seen
from stratatune.studies.suggest.course import SHARE, Course, Price, overhead, planned
from stratatune.studies.suggest.probing import FEWEST, Probe, probe, read_depths
from stratatune.training.config import AUTO, CHOSEN_BY_AUTO, RunConfig, load_config

if TYPE_CHECKING:
    from stratatune.data.encoded import Encoded
    from stratatune.progress import Reporter
    from stratatune.training.prepare import Outline, Prepared
    from stratatune.training.run import Result
    from stratatune.training.trials.race import Trial
    from stratatune.training.trials.sharing import Shared

RECORD = "auto.json"
_SAMPLE, _PASS_SHARE = 256, 0.4
"""The most examples whose depths are read, and the most that this may take of the share for choosing."""
_PASS_BATCH = 32


def train(config: RunConfig, *, tables: Mapping[str, Any] | None = None, reporter: Reporter | None = None) -> Result:
    """Train as :func:`stratatune.training.run.train` does; a plan that is ``auto`` is chosen first.

    Args:
        config: the settings; ``lr``, ``epochs`` and ``early_stopping`` are chosen with the plan unless they are given.
        tables: data in memory that takes the place of a path, by ``train``, ``eval`` and ``test``.
        reporter: prints progress; on standard error by default.

    Raises:
        UserError: a mistake in the settings or the data, before anything is trained.
        ResourceError: no room or no permission.
        NotFiniteError: a loss, a gradient or an output is NaN or infinite.
    """
    from stratatune.progress import Reporter
    from stratatune.training.run import train as run
    from stratatune.training.trials.tops import parts_of

    reporter, tables = reporter or Reporter(), tables or {}
    if config.plan == AUTO and config.resume:
        config = _as_chosen(config)
    if config.plan != AUTO:
        return run(config, tables=tables, reporter=reporter)
    search = _Search(config, tables, reporter)
    several = bool(parts_of(config))  # tops that train together, so a trial of a plan would be one of each
    try:
        return search.raced() if search.course.entrants > 1 and not several else search.untried()
    finally:
        search.shared.close()


def choose(config: RunConfig, *, tables: Mapping[str, Any] | None = None, reporter: Reporter | None = None) -> Choice:
    """The plan that ``auto`` takes without trials: for several runs at once, which must have the same plan.

    Raises:
        UserError: as :func:`train`.
    """
    from stratatune.progress import Reporter

    search = _Search(config, tables or {}, reporter or Reporter())
    try:
        return search.choice(0)
    finally:
        search.shared.close()


def _as_chosen(config: RunConfig) -> RunConfig:
    """Continue a resumed run with the choice from its beginning, and compare settings that are now given with it."""
    from stratatune.training.run import CONFIG

    path = Path(config.out).expanduser() / CONFIG
    if not path.is_file():
        return config
    begun = load_config(path)
    chosen = ("plan", *(name for name in CHOSEN_BY_AUTO if name not in config.model_fields_set))
    return config.model_copy(update={name: begun[name] for name in chosen if name in begun})


@dataclass
class _Search:
    """The inputs of a choice, each made once."""

    config: RunConfig
    tables: Mapping[str, Any]
    reporter: Reporter
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        from stratatune.training.run import check_folder
        from stratatune.training.trials.sharing import Shared

        check_folder(self.config, Path(self.config.out).expanduser())
        self.shared: Shared = Shared()
        self.probes: Sequence[Probe] = ()
        self.spent = 0.0
        self.prepared = self._prepared()
        self.found = self._priced()
        self.course = Course(1)
        if self._may_look():
            self._look()
            tried = [price for proposal, price in self.found if proposal.tried]
            self.course = planned(tried, self._batches(), self.spent, accumulate=self.config.accumulate)

    # --- the run before its plan is known --------------------------------------------------------------------------

    def _outline(self, proposal: Proposal) -> Outline:
        from stratatune.training.prepare import Outline

        return Outline(self.proposed(proposal))

    def _prepared(self) -> Prepared:
        """The data as the plan ``frozen`` reads them: it fits every model and every task."""
        from stratatune.training.prepare import Outline
        from stratatune.training.run import kind_of

        outline = Outline(self.config.model_copy(update={"plan": "frozen"}))
        tables = self.shared.read_tables(self.config, self.tables, kind_of(outline, self.tables))
        return self.shared.settle(outline, tables)

    @property
    def _few(self) -> bool:
        """Whether rows are so few that an encoder trains more blocks."""
        return rows_are_few(self.prepared.outline.shape, self.rows)

    @property
    def _simple(self) -> bool:
        """Whether each text has one of a few classes, or a number."""
        labels = self.prepared.learnt.labels
        return labels is not None and labels.ndim == 1 and self.prepared.objective.outputs <= MOST_CLASSES

    def proposed(self, proposal: Proposal) -> RunConfig:
        """The run with a plan, and with the plan's rate and epochs unless they are given."""
        rate = scaled(proposal.lr, self.prepared.objective.rates)
        patience = PATIENCE * self.config.evaluations if self.prepared.eval is not None else 0
        epochs = epochs_for(self.rows, self.prepared.outline.shape.hidden, few=self._few, simple=self._simple)
        own: dict[str, Any] = {"lr": rate, "epochs": epochs, "early_stopping": patience}
        own |= {"head_start": "fitted"} if self._starts_fitted(proposal) else {}
        given = self.config.model_fields_set
        return self.config.model_copy(
            update={"plan": proposal.plan, **{name: value for name, value in own.items() if name not in given}}
        )

    def _starts_fitted(self, proposal: Proposal) -> bool:
        """Whether there is a new output layer, which can be fitted."""
        from stratatune.training.head_start import HEADS

        prompted = proposal.prompted and self.config.objective == "auto"
        return not prompted and self.prepared.objective.head in HEADS

    @property
    def rows(self) -> int:
        """The number of training examples."""
        return self.prepared.learnt.examples

    def _batches(self) -> int:
        return -(-self.rows // self._batch_size)

    @property
    def _batch_size(self) -> int:
        config, lengths = self.config, self.prepared.learnt.example_lengths
        return config.batch_size or max(1, int((config.token_budget or 0) / lengths.mean()))

    def _priced(self, *, deeper: bool = False) -> list[tuple[Proposal, Price]]:
        """Every candidate plan with its price, without those that the model cannot take."""
        from stratatune.errors import UserError

        outline = self.prepared.outline
        kinds = max(1, self.prepared.objective.outputs)
        found, wrong = list[tuple[Proposal, Price]](), list[UserError]()
        seen = set[tuple[str, float]]()
        for proposal in proposals(outline.shape, kinds, words=self._has_words(), deeper=deeper, few=self._few):
            config = self.proposed(proposal)
            if (config.plan, config.lr) in seen:  # the rate is given, so a second one is not a new plan
                continue
            seen.add((config.plan, config.lr))
            try:
                found.append((proposal, self._price(proposal)))
            except UserError as error:
                wrong.append(error)
        if not found:
            raise wrong[0]
        return found

    def _has_words(self) -> bool:
        """Whether the user gives words for the labels."""
        config = self.config
        return config.objective == "mlm" or (config.objective == "auto" and bool(config.template or config.label_words))

    def _price(self, proposal: Proposal) -> Price:
        from stratatune.costs.cost import cost
        from stratatune.costs.placing import frozen_weights
        from stratatune.errors import PlanError

        outline, objective, lengths = self._outline(proposal), self.prepared.objective, self.prepared.learnt.lengths
        resolved, config = outline.resolved, outline.config
        prompted = proposal.prompted and config.objective == "auto"
        top = range(resolved.frozen_depth, resolved.shape.blocks)
        if config.pack != "none" and not any(frozen_weights(resolved, number) for number in top):
            raise PlanError(f"pack {config.pack}: the top of {config.plan} has no frozen linear")  # as the run would
        worked = cost(
            resolved,
            lengths=lengths,
            objective="mlm" if prompted else objective.name,
            dtype="fp32" if config.precision == "fp32" else "bf16",
            batch_size=self._batch_size,
            labels=objective.outputs,
            memory=False,
            positions=None if prompted else objective.positions,
        )
        first, cached = worked.epochs["first"], worked.epochs["cached"]
        trunk = first.flops - cached.flops
        return Price(
            run=first.flops + (config.epochs - 1) * cached.flops,
            step=cached.flops / cached.steps,
            trunk=trunk / first.steps,
            share=f"{prompted} {resolved.frozen_depth}",
        )

    # --- looking ---------------------------------------------------------------------------------------------------

    def _may_look(self) -> bool:
        """Whether this run can be tried: one process, its model in memory, and a text and a target an example."""
        from stratatune.progress import Reporter
        from stratatune.training import distributed
        from stratatune.training.streaming import streamed_below

        train = self.prepared.train
        if distributed.launched() > 1 or not train.targets or train.groups is not None or train.given is not None:
            return False
        quiet = Reporter(held=True)
        return not streamed_below(self._outline(self.found[0][0]), quiet, alone=True)

    def _look(self) -> None:
        """Read some depths of a sample, and order the plans as the probes suggest."""
        objective, blocks = self.prepared.objective, self.prepared.outline.shape.blocks
        sample = self._sample()
        if sample is None or not objective.place or len(self.prepared.outline.shape.stacks) > 1:
            return
        depth = top_depth(blocks)
        depths = sorted({deeper_than(depth, blocks, few=self._few), depth, *range(1, blocks + 1, max(1, blocks // 5))})
        self.probes = self._probed(sample, depths)
        if adds_below(self.probes, depth):
            self.found = self._priced(deeper=True)

    def _sample(self) -> Encoded | None:
        """A sample, as large as its share of the work allows; None: too few examples to say anything."""
        from stratatune.data.splitting import sample
        from stratatune.studies.suggest.top_speed import pass_flops

        train, shape = self.prepared.train, self.prepared.outline.shape
        allowed = _PASS_SHARE * SHARE * min(price.run for _, price in self.found[:2])
        count = min(_SAMPLE, self.rows // 2)
        if count < 2 * FEWEST:
            return None
        chosen = train.subset(sample(_classes(train), count, self.config.seed))
        spent = pass_flops(shape, chosen, _PASS_BATCH)
        if spent > allowed:
            count = int(count * allowed / spent)
            if count < 2 * FEWEST:
                return None
            chosen = train.subset(sample(_classes(train), count, self.config.seed))
            spent = pass_flops(shape, chosen, _PASS_BATCH)
        self.spent = spent
        return chosen

    def _probed(self, sample: Encoded, depths: Sequence[int]) -> Sequence[Probe]:
        import torch

        from stratatune._compat import accelerator_for
        from stratatune.data.batching import pad_id
        from stratatune.model.backbone import Backbone
        from stratatune.progress import Reporter
        from stratatune.training.machine import in_bf16

        config, objective = self.config, self.prepared.objective
        device = accelerator_for(config.device, (), config.out).device  # pyright: ignore[reportArgumentType]
        base = self.shared.load_base(**self.prepared.base, device=device)
        read = objective.for_probes(sample, config.seed)
        if read.labels is None or read.labels.ndim != 1 or len(set(read.labels.tolist())) < 2:
            return ()
        found = read_depths(
            Backbone(base.model),
            read,
            pad_id(self.prepared.tokenizer),
            batch_size=_PASS_BATCH,
            device=device,
            autocast=torch.bfloat16 if in_bf16(config.precision, device) else None,
            reporter=self.reporter,
        )
        last = found.readings[-1]  # the mean over the tokens, where a family has it
        quiet = Reporter(quiet=True)
        return probe(found, read.labels, seed=config.seed, reporter=quiet, depths=depths, readings=(last,), controls=0)

    # --- choosing --------------------------------------------------------------------------------------------------

    def raced(self) -> Result:
        """Race the plans and continue with the best."""
        from stratatune.training.trials.race import Trial, race

        trials = [Trial(self.proposed(one)) for one, _ in self.found[: self.course.entrants]]
        names = ", ".join(one.config.plan for one in trials)
        self.reporter.say(f"auto: trying {names} by {self.course.steps} steps each")
        return race(
            trials,
            steps=self.course.steps,
            judged=self.course.judged,
            tables=self.tables,
            shared=self.shared,
            reporter=self.reporter,
            chosen=lambda number: self._settle(number, trials),
        )

    def untried(self) -> Result:
        """Train the first plan, without trials."""
        from stratatune.training.folder import alone_in
        from stratatune.training.run import train as run

        choice = self.choice(0)
        self._say(choice)
        self.shared.let_go()  # the run loads the model by itself
        # Before the run: one that is stopped and resumed has an ordinary plan, and does not come here again.
        with alone_in(Path(self.config.out).expanduser()):
            self._keep(choice)
        return run(choice.config, tables=self.tables, reporter=self.reporter)

    def _settle(self, number: int, trials: Sequence[Trial]) -> None:
        choice = self.choice(number, trials)
        self._say(choice)
        self._keep(choice)

    def _say(self, choice: Choice) -> None:
        for line in choice.why:
            self.reporter.say(line)

    def _keep(self, choice: Choice) -> None:
        from stratatune.progress import is_main

        if is_main():
            text = json.dumps(choice.record, indent=2, ensure_ascii=False) + "\n"
            write_text(Path(self.config.out).expanduser() / RECORD, text)

    def choice(self, number: int, trials: Sequence[Trial] = ()) -> Choice:
        """The choice of the plan of this number."""
        proposal, price = self.found[number]
        spent = overhead(self.course, [one for _, one in self.found], number, self.spent) if trials else self.spent
        seen = Seen(
            plans=self.found,
            number=number,
            trials=trials,
            probes=self.probes,
            course=self.course,
            share=spent / price.run,
            of_stock=price.run / self._stock(),
            metric=self.prepared.objective.metric,
            blocks=self.prepared.outline.shape.blocks,
            rows=self.rows,
            seconds=time.perf_counter() - self.started - (trials[number].seconds if trials else 0.0),
        )
        return seen.choice(self.proposed(proposal))

    def _stock(self) -> float:
        """Operations of peft's LoRA on all blocks for as many epochs."""
        from stratatune.costs.cost import cost

        lengths, config = self.prepared.learnt.lengths, self.proposed(self.found[0][0])
        objective = self.prepared.objective.name
        whole = cost(
            "lora", self.prepared.outline.shape, lengths, objective=objective, batch_size=self._batch_size, memory=False
        )
        return config.epochs * whole.epochs["A"].flops


def _classes(encoded: Encoded) -> Any:
    """The classes by which a sample is drawn: one label a text, or nothing."""
    labels = encoded.labels
    return [0] * len(encoded) if labels is None or labels.ndim != 1 else labels
