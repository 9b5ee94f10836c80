"""Convert an ONNX export to int8, and measure the loss of score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stratatune.errors import UserError
from stratatune.exits.onnx_folder import to_int8
from stratatune.outside import path_exists
from stratatune.training.config import load_config
from stratatune.training.predict import Predictor


@dataclass(frozen=True)
class Quantised:
    """An export before and after its matrices became int8.

    Attributes:
        bytes_before, bytes_after: sizes of the graph.
        scored_on: the data that both were scored on; empty where none were at hand.
        n: how many rows they have.
        before, after: the metrics, the loss included.
    """

    bytes_before: int
    bytes_after: int
    scored_on: str
    n: int
    before: Mapping[str, float]
    after: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """The result as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        sizes = f"int8: {self.bytes_before / 2**20:,.1f} MiB became {self.bytes_after / 2**20:,.1f} MiB"
        if not self.scored_on:
            return f"{sizes}; no labelled data at hand: --data FILE shows what that costs in score"
        costs = (f"{name} {was:.4f} -> {self.after[name]:.4f}" for name, was in self.before.items())
        return f"{sizes}; on {self.n:,} rows of {self.scored_on}: {', '.join(costs)}"


def quantised(folder: Path, run: Path, data: str | None, split: str | None) -> Quantised:
    """Make an export's matrices int8, in place, and score it before and after.

    Args:
        folder: a folder of ``export --to onnx``.
        run: the run that was exported; its evaluation data are read where ``data`` is None and they are still there.
        data: labelled data.
        split: the split of a folder or a hub id.

    Raises:
        DataError: ``data`` cannot be read.
    """
    source = data or _evaluation_data(run)
    # First: the matrices are replaced in place, and there is no way back.
    before = _score(folder, source, split, asked=data is not None)
    sizes = to_int8(folder)
    # The same data were readable a moment ago, so a failure now is the export's, and is not passed over.
    after = _score(folder, source, split, asked=True) if before else {}
    return Quantised(
        *sizes,
        scored_on=source if before else "",
        n=before.get("n", 0),
        before=before.get("metrics", {}),
        after=after.get("metrics", {}),
    )


def _score(folder: Path, source: str, split: str | None, *, asked: bool) -> dict[str, Any]:
    """The metrics; none if there are no data, or a run's own have moved away since."""
    if not source:
        return {}
    try:
        return Predictor(folder, engine="onnx").score(source, split=split)
    except UserError:
        if asked:
            raise
        return {}


def _evaluation_data(run: Path) -> str:
    """The source of the run's evaluation data; empty where it had none, or they were in memory."""
    place = next((one for one in (run, run.parent) if path_exists(one / "config.yaml")), None)
    if place is None:
        return ""
    found = load_config(place / "config.yaml").get("eval")
    return found if isinstance(found, str) and path_exists(Path(found)) else ""
