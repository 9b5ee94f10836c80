"""A suggestion: the request, the evidence, the proposal; and the files it is written into. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stratatune.errors import ConfigError, did_you_mean
from stratatune.files import make_folder, write_text
from stratatune.studies.suggest.depth_picture import svg
from stratatune.studies.suggest.pricing import Candidate
from stratatune.studies.suggest.probing import FEWEST
from stratatune.studies.suggest.view import View

if TYPE_CHECKING:
    from stratatune.training.config import RunConfig

Family = Literal["full", "lora", "bft", "spafit", "any"]
FAMILIES: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in ("full", "lora", "bft", "spafit")},
    "any": ("bft", "spafit"),
}


@dataclass(frozen=True)
class Asked:
    """The user's request for a suggestion.

    Attributes:
        family: all parameters of the blocks from a depth on, LoRA of their attention and FFN, BFT's insertion under a
            hard prompt, SPAFIT's under a classifier, or the better of both papers' (``any``).
        samples: the most examples that are read.
        budget_seconds: the most seconds of the run's training on this machine.
        budget_memory: the most bytes of the run.
        refine: whether short real trials follow, and how many ``trials``.
    """

    family: Family = "full"
    samples: int = 500
    budget_seconds: float | None = None
    budget_memory: int | None = None
    refine: bool = False
    trials: int = 16

    def check(self) -> None:
        """Raise ConfigError with every mistake."""
        wrong = []
        if self.family not in FAMILIES:
            wrong.append(f"family: {self.family!r}; {did_you_mean(self.family, FAMILIES)}")
        if self.samples < FEWEST:
            wrong.append(f"samples: {self.samples}; {FEWEST} or more")
        if self.trials < 1:
            wrong.append(f"trials: {self.trials}; 1 or more")
        for name in ("budget_seconds", "budget_memory"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                wrong.append(f"{name}: {value:g}; must be more than 0")
        if wrong:
            raise ConfigError(wrong, "`stratatune suggest --help` says what each means")


@dataclass(frozen=True)
class Suggestion:
    """The proposed plan, and why.

    Attributes:
        model: the model as given.
        plan: the plan to train.
        family: one of :data:`FAMILIES`.
        depth: where it inserts, or from where on it trains.
        why: a few lines.
        blocks: L.
        samples, rows: examples read, and of the training data.
        views: the evidence, the chosen family's first.
        config: the run's settings with the plan in them.
        trials: the trials of ``--refine``, best first; empty without it.
    """

    model: str
    plan: str
    family: str
    depth: int
    why: tuple[str, ...]
    blocks: int
    samples: int
    rows: int
    views: tuple[View, ...] = field(repr=False)
    config: RunConfig = field(repr=False)
    trials: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    @property
    def chosen(self) -> Candidate:
        """The candidate at :attr:`depth`."""
        return next(one for one in self.views[0].candidates if one.depth == self.depth)

    def to_json(self) -> dict[str, Any]:
        """The suggestion as plain data; the run's settings are in the YAML file next to it."""
        views = [asdict(view) for view in self.views]
        names = ("model", "plan", "family", "depth", "why", "blocks", "samples", "rows", "trials")
        return {**{name: getattr(self, name) for name in names}, "lr": self.config.lr, "views": views}

    def save(self, folder: Path) -> dict[str, str]:
        """Write ``suggestion.json``, ``suggestion.svg`` and ``run.yaml``, a file for ``stratatune train``.

        Returns:
            Each file's path by its name.

        Raises:
            ResourceError: the folder cannot be written.
        """
        from stratatune.training.config import to_yaml

        title = f"{self.plan} for {self.model.rstrip('/').rpartition('/')[2]}"
        read = f"{self.samples} of {self.rows} examples"
        run = self.config.model_copy(update={"out": str(folder / "run")})
        files = {
            "suggestion.json": json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n",
            "suggestion.svg": svg(self.views[0], self.depth, title, read),
            "run.yaml": to_yaml(run),
        }
        make_folder(folder)
        for name, text in files.items():
            write_text(folder / name, text)
        return {name: str(folder / name) for name in files}
