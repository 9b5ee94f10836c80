"""Find where in a model a task's information appears: a linear probe at every depth of a sample, read in one pass.

A probe is ridge regression on one indicator a class (on the value itself where labels are numbers), its inputs
standardised on the training folds. Its regularisation is chosen inside each training fold by the exact leave-one-out
error, its score is that of the folds left out, and the standard error is taken over the folds. Each probe learns the
labels in 19 random orders as well: the scores of these controls are what the sample's size alone yields. A real score
above all of theirs is one that labels without a meaning reach in one of 20 samples.

The score of classes is the area under the ROC curve, each class against the others, the mean of them: the share of
pairs, one text of a class and one of another, that the probe puts in the right order. 0.5 is chance whatever the
balance of classes; accuracy and similar scores do not change while a weak probe of unbalanced classes always names
the larger. The score of numbers is Pearson's correlation.

Shapes: N examples, L blocks, K readings of a depth, D hidden.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stratatune.errors import DataError
from stratatune.objectives.metrics import value_scores

if TYPE_CHECKING:
    import torch

    from stratatune.data.encoded import Encoded
    from stratatune.model.backbone import Backbone
    from stratatune.progress import Reporter

FOLDS = 5
FEWEST = 8 * FOLDS
"""The fewest examples with which a fold is informative."""
CONTROLS = 19
"""The number of random orders of the labels; with the true order one in 20 comes first by chance."""
_ALPHAS = np.logspace(0, 5, 11)


@dataclass(frozen=True)
class Probe:
    """The score of a probe of one depth.

    Attributes:
        depth: 0 (the embeddings) to L.
        reading: ``read`` (the position that the objective reads) or ``mean`` (over the real tokens).
        score: mean over the folds: area under the ROC curve, or Pearson's correlation where labels are numbers.
        error: its standard error over the folds.
        control: the mean score for labels in random orders.
        control_error: the standard deviation of one of these.
        controls: the score for each random order; the same orders at every depth.
        folds: the score on each fold; the same folds at every depth.
    """

    depth: int
    reading: str
    score: float
    error: float
    control: float
    control_error: float
    controls: tuple[float, ...] = ()
    folds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Pass:
    """The result of one pass over a sample.

    Attributes:
        features: fp32 [N, L + 1, K, D].
        readings: K names.
        seconds: the time that it took.
    """

    features: np.ndarray
    readings: tuple[str, ...]
    seconds: float


def read_depths(
    backbone: Backbone,
    encoded: Encoded,
    pad_id: int,
    *,
    batch_size: int,
    device: torch.device,
    autocast: torch.dtype | None,
    reporter: Reporter,
) -> Pass:
    """Every depth of every example in one pass; it takes N (L + 1) K D 4 bytes of memory.

    Raises:
        NotFiniteError: a hidden state is NaN or infinite; it names the weight at fault.
    """
    import torch

    from stratatune.data.batching import collate, plan_batches
    from stratatune.model.depths import Depths
    from stratatune.model.finite import check_hidden

    depths, features, started = Depths(backbone), None, time.perf_counter()
    with reporter.bar("every depth of the sample", len(encoded)) as bar:
        for index in plan_batches(encoded.lengths, batch_size=batch_size, seed=0, epoch=0, shuffle=False):
            batch = collate(encoded, index, pad_id).to(device)
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                rows = depths(batch.input_ids, batch.mask, batch.token_types, batch.read)
            check_hidden(rows, backbone.model, "the sample that is probed")
            if features is None:
                features = np.empty((len(encoded), *rows.shape[1:]), np.float32)
            features[index] = rows.cpu().numpy()
            bar.advance(len(index))
    assert features is not None
    return Pass(features, depths.readings, time.perf_counter() - started)


def paired(found: Pass, sample: Encoded) -> Pass:
    """The features of pairs of texts: the products of their states, scaled to length 1, value by value.

    A probe then weighs the parts of a cosine. Of examples of one text, these as they are.
    """
    if sample.groups is None:
        return found
    first, second = sample.groups.values.reshape(-1, 2).T
    states = found.features / np.maximum(np.linalg.norm(found.features, axis=-1, keepdims=True), 1e-12)
    return replace(found, features=states[first] * states[second])


def probe(
    found: Pass,
    labels: np.ndarray,
    *,
    seed: int,
    reporter: Reporter,
    depths: Sequence[int] | None = None,
    readings: Sequence[str] | None = None,
    controls: int = CONTROLS,
) -> list[Probe]:
    """Probe every depth and reading, or the named ones.

    Args:
        found: the result of the pass.
        labels: class numbers int64 [N], values float [N], or label sets bool [N, C].
        seed: the seed of the folds and of the controls' orders.
        depths: the depths to probe; all when None.
        readings: the readings to probe; all when None.
        controls: the number of random orders that each probe learns besides; without them ``control`` is NaN.

    Raises:
        DataError: fewer than 40 examples.
    """
    if len(labels) < FEWEST:
        raise DataError(f"{len(labels)} examples are too few to probe", f"give rows for at least {FEWEST}")
    folds, random = list(_folds(labels, seed)), np.random.default_rng(seed)
    orders = [labels, *(random.permutation(labels) for _ in range(controls))]
    probes: list[Probe] = []
    depths, readings = depths or range(found.features.shape[1]), readings or found.readings
    with reporter.bar("probes", len(depths) * len(readings)) as bar:
        for depth in depths:
            for reading in readings:
                number = found.readings.index(reading)
                scores = _scores(found.features[:, depth, number], orders, folds)
                (score, *others), error = scores.mean(axis=0).tolist(), scores[:, 0].std(ddof=1) / np.sqrt(len(scores))
                control, spread = (float(np.mean(others)), float(np.std(others))) if others else (math.nan, math.nan)
                own = tuple(scores[:, 0].tolist())
                probes.append(Probe(depth, reading, score, float(error), control, spread, tuple(others), own))
                bar.advance(1)
    return probes


def _folds(labels: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Five folds, with each class spread over them if it has enough examples."""
    from sklearn.model_selection import KFold, StratifiedKFold

    by_class = labels.dtype.kind in "iu" and np.bincount(labels).max() >= FOLDS
    kind: Any = StratifiedKFold if by_class else KFold
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # its few examples are spread as can be
        yield from kind(FOLDS, shuffle=True, random_state=seed).split(labels, labels)


def _scores(
    inputs: np.ndarray, orders: Sequence[np.ndarray], folds: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Scores [folds, orders] of the labels in each order; one decomposition of the inputs serves all."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    targets = np.concatenate([_targets(labels) for labels in orders], axis=1)  # [N, orders * C]
    found = []
    for train, test in folds:
        fitted = make_pipeline(StandardScaler(), RidgeCV(_ALPHAS, alpha_per_target=True))
        predicted = np.reshape(fitted.fit(inputs[train], targets[train]).predict(inputs[test]), (len(test), -1))
        outputs = np.split(predicted, len(orders), axis=1)
        found.append([_score(labels[test], output) for labels, output in zip(orders, outputs, strict=True)])
    return np.array(found)


def _score(truth: np.ndarray, outputs: np.ndarray) -> float:
    """Score ``truth`` [n] against ``outputs`` [n, C], or [n, 1] for values, without classes that the fold lacks."""
    from scipy.stats import rankdata

    if truth.dtype.kind == "f":
        return value_scores(truth, outputs[:, 0])["pearson"]
    members = truth if truth.ndim == 2 else truth[:, None] == np.arange(outputs.shape[1])
    # The area by the sum of the ranks (Mann and Whitney), of all classes at once: sklearn's takes them one by one.
    inside, ranks = members.sum(axis=0), np.where(members, rankdata(outputs, axis=0), 0.0).sum(axis=0)
    pairs = inside * (len(members) - inside)
    areas = (ranks - inside * (inside + 1) / 2)[pairs > 0] / pairs[pairs > 0]
    return float(areas.mean()) if len(areas) else 0.5


def _targets(labels: np.ndarray) -> np.ndarray:
    """One indicator a class or a label [N, C], or the values [N, 1]."""
    if labels.ndim == 2:
        return labels.astype(np.float64)
    return labels[:, None] if labels.dtype.kind == "f" else np.eye(int(labels.max()) + 1)[labels]
