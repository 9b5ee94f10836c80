"""``span``: the answer to a question as a span of its context (SQuAD), by a new output layer on every token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from stratatune.data.answer_tokens import answers_on_tokens
from stratatune.data.context_windows import Windowing
from stratatune.data.encoded import Encoded, Targets, offsets_of
from stratatune.data.questions import Answer, read_questions
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table
from stratatune.data.splitting import RowGroups
from stratatune.errors import ConfigError, DataError
from stratatune.objectives.answers import Answers, Using
from stratatune.objectives.asked import Asked, common_of, pretended_common
from stratatune.objectives.metrics import check_metric
from stratatune.objectives.objective import Objective
from stratatune.objectives.squad_metrics import Found, Window, best_spans, best_threshold, scores
from stratatune.objectives.tensors import at_least_fp32, at_places
from stratatune.objectives.written import check_number

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch
    from stratatune.model.question import Question

METRICS = ("f1", "exact_match")
PARTS = ("has_answer_f1", "has_answer_exact_match", "no_answer_accuracy")
"""The metrics of data in which some questions have no answer."""
TUNED = "tuned"
_STRIDE, _LONGEST, _CANDIDATES = 128, 30, 3  # the first two are those of BERT's recipe
_ANSWER, _READING, _CHARACTERS, _COUNTS = "answer", "reading", "characters", "counts"
_DIGITS = 6
_NULL: Mapping[str, Literal["first", "last"]] = {"encoder": "first", "decoder": "last"}
"""Which token of a window stands for "no answer", by the family: a decoder's first token has read nothing, and would
say the same of every question.
"""


@dataclass(frozen=True, eq=False)
class _Reading:
    """A question's context and reference answers; the windows of one question share one."""

    context: str
    references: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering(Objective):
    """The beginning and the end of an answer.

    Attributes:
        max_answer: the most tokens of an answer that is predicted.
        stride: tokens of the context that the windows of a long one share.
        candidates: how many of the best answers a prediction lists.
        unanswerable: whether some questions of the run's data have no answer, so that none may be predicted.
        tuning: whether ``threshold`` is tuned on the evaluation data.
        threshold: how far the logit of "no answer" must lie above the best answer's for none to be predicted; None
            until it is tuned: then each evaluation is scored by the one that suits it.
    """

    name: ClassVar[str] = "span"
    summary: ClassVar[str] = "the answer to a question as a span of its context (SQuAD), with a new output layer"
    head: ClassVar[str] = "span"
    finds_columns: ClassVar[bool] = True
    families: ClassVar[frozenset[str]] = frozenset({"encoder", "decoder"})
    longest: ClassVar[int] = 384
    reads: ClassVar[Literal["one", "few", "all"]] = "all"
    metrics: ClassVar[tuple[str, ...]] = (*METRICS, *PARTS)
    bounded: ClassVar[frozenset[str]] = frozenset(metrics)
    options: ClassVar[Mapping[str, type]] = {"max_answer": int, "stride": int, "threshold": str, "candidates": int}
    place: ClassVar[str] = "one token of each context"

    max_answer: Annotated[int, Field(ge=1)] = _LONGEST
    stride: Annotated[int, Field(ge=0)] = 0
    candidates: Annotated[int, Field(ge=1)] = _CANDIDATES
    unanswerable: bool = False
    tuning: bool = False
    threshold: float | None = 0.0

    # --- how it is chosen and made ---------------------------------------------------------------------------------

    @classmethod
    def settle(cls, asked: Asked) -> tuple[Self, list[str]]:
        if asked.task:
            raise ConfigError([f"objective: the task {asked.task.name} has no answers in contexts"], "leave out --task")
        asked.check_fast("span")
        options, tables = asked.options, [asked.data, *asked.others]
        without = [sum(not row for row in _labels(table)) for table in tables]
        if without[0] == len(asked.data):
            raise DataError(f"{asked.data.source}: no question has an answer", "name another column with --label")
        unanswerable = any(without)
        tuning, threshold = _threshold(options.get("threshold"), unanswerable)
        metric = check_metric(asked.metric or METRICS[0], cls.metrics if unanswerable else METRICS, "answers")
        for name, usual in (("max_answer", _LONGEST), ("candidates", _CANDIDATES)):
            check_number("span", name, options.get(name, usual), options.get(name, usual) >= 1, "1 or more")
        own = {"unanswerable": unanswerable, "tuning": tuning, "threshold": threshold}
        own |= {name: options[name] for name in ("max_answer", "candidates") if name in options}
        made = cls(**common_of(asked, metric), **own)
        most = made._windowing(asked.tokens).most_stride
        stride = options.get("stride", min(_STRIDE, made.max_length // 3, most))
        check_number("span", "stride", stride, 0 <= stride <= most, f"0 to {most}, for windows of {made.max_length}")
        notices = [f"{without[0]:,} of {len(asked.data):,} questions of {asked.data.source} have no answer"]
        return replace(made, stride=stride), notices if without[0] else []

    @property
    def outputs(self) -> int:
        return 2

    @property
    def needs_evaluation(self) -> bool:
        return self.tuning

    # --- data ------------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, source: Any, options: ReadOptions) -> Table:
        """Read questions, contexts and answers; see :func:`stratatune.data.questions.read_questions`."""
        return read_questions(source, options)

    @classmethod
    def classes_of(cls, table: Table) -> Sequence[Any] | None:
        """Whether each question has an answer."""
        return None if table.labels is None else [int(bool(row)) for row in _labels(table)]

    @classmethod
    def groups_by_row(cls, table: Table) -> RowGroups | None:
        """The questions on each context."""
        return RowGroups("context", table.texts[1])

    def _windowing(self, tokenizer: PreTrainedTokenizerBase) -> Windowing:
        return Windowing(tokenizer, self.max_length, self.stride, _NULL[self.family])

    def encode(self, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """Encode each question with its context, in windows where that is long; a window is an example.

        The target of a window is the first and the last token of the first reference answer, by their numbers among the
        tokens that are read; in a window without the whole answer it is the null token, twice.
        """
        found = self._windowing(tokenizer).encode(table.texts[0], table.texts[1], table.source)
        encoded, places = found.encoded, found.encoded.places
        assert places is not None
        answers = [()] * len(table) if table.labels is None else _labels(table)
        readings = np.empty(len(table), object)
        readings[:] = [
            _Reading(context, tuple(one.text for one in row))
            for context, row in zip(table.texts[1], answers, strict=True)
        ]
        kept = {_READING: Targets(readings[found.rows]), _CHARACTERS: Targets(found.characters, places.offsets)}
        encoded = replace(encoded, for_scores={**kept, _COUNTS: Targets(found.counts, places.offsets)})
        if table.labels is None:
            return encoded
        targets, notices = answers_on_tokens(found, _labels(table), table)
        return replace(encoded, notices=(*encoded.notices, *notices)).with_targets(targets, name=_ANSWER)

    @classmethod
    def pretended(cls, texts: Encoded, family: str, random: np.random.Generator) -> tuple[Self, Encoded]:
        """Make up answers: the second half of each text is a context, with an answer of one token in it."""
        made = cls(**{**pretended_common(texts, family, METRICS[0]), "text": ("question", "context")})
        starts, last = texts.lengths - texts.lengths // 2, texts.lengths - 1
        bodies = [np.arange(start, end) for start, end in zip(starts, last, strict=True)]
        if _NULL[family] == "last":
            rows = [np.append(body, end) for body, end in zip(bodies, last, strict=True)]
        else:
            rows = [np.append(0, body) for body in bodies]
        sizes = np.array([len(row) for row in rows])
        chosen = (random.random(len(rows)) * sizes).astype(np.int64)
        places = Targets(np.concatenate(rows).astype(np.int64), offsets_of(sizes))
        return made, replace(texts, places=places).with_targets(np.stack([chosen, chosen], axis=1), name=_ANSWER)

    # --- learning --------------------------------------------------------------------------------------------------

    def question(self, batch: Batch, *, training: bool) -> Question:
        """The question for the context's tokens and the null token."""
        return at_places(batch)

    def loss(self, logits: Tensor, batch: Batch, *, training: bool = True) -> Tensor:
        """Mean cross-entropy of the first and of the last token over those that are read: ``logits`` [n, 2]."""
        from torch.nn.functional import cross_entropy

        assert batch.places is not None
        there = batch.places >= 0  # [B, U]
        logits = at_least_fp32(logits)
        rows = logits.new_full((*there.shape, 2), -math.inf).masked_scatter(there[..., None], logits)  # [B, U, 2]
        return cross_entropy(rows, batch.targets[_ANSWER])

    # --- using -----------------------------------------------------------------------------------------------------

    def predict(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """``logits`` [n, 2] of the tokens that are read, as they are: windows are put together by :meth:`_found`."""
        return at_least_fp32(logits).cpu().numpy()

    def rows(self, data: Encoded) -> np.ndarray:
        assert data.places is not None
        return data.places.sizes

    def _found(self, output: np.ndarray, data: Encoded) -> Iterator[tuple[_Reading, Found]]:
        """What the windows of each question say, in the order of the questions."""
        assert data.places is not None
        offsets, kept = offsets_of(data.places.sizes), data.for_scores
        windows: dict[_Reading, list[Window]] = {}
        for number, reading in enumerate(kept[_READING].values):
            here = slice(*offsets[number : number + 2])
            window = Window(output[here], kept[_CHARACTERS].values[here], kept[_COUNTS].values[here])
            windows.setdefault(reading, []).append(window)
        for reading, own in windows.items():
            yield reading, best_spans(own, self.max_answer, self.candidates)

    def _leads(self, output: np.ndarray, data: Encoded) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of each question: the null's lead [N], exact match and F1 of its best span [N, 2] and of none [N, 2].

        And whether it has an answer [N].
        """
        leads, answered, none, there = [], [], [], []
        for reading, found in self._found(output, data):
            best = found.candidates[0] if found.candidates else None
            text = reading.context[best.start : best.end] if best else ""
            leads.append(found.lead)
            answered.append(scores(text, reading.references))
            none.append(scores("", reading.references))
            there.append(bool(reading.references))
        return np.array(leads), np.array(answered), np.array(none), np.array(there)

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        """Exact match and F1 from 0 to 1; where questions may have no answer, also of those with one and without."""
        leads, answered, none, there = self._leads(output, data)
        threshold = self._suiting(leads, answered, none)
        found = np.where(((leads > threshold) & self.unanswerable)[:, None], none, answered)
        metrics = {"f1": float(found[:, 1].mean()), "exact_match": float(found[:, 0].mean())}
        if not self.unanswerable:
            said = f"{int((~there).sum()):,} questions have no answer, and this model always gives one"
            return metrics, [] if there.all() else [f"{said}: all had one in training"]
        own = found[there].mean(axis=0) if there.any() else np.zeros(2)
        parts = (own[1], own[0], found[~there, 0].mean() if not there.all() else 0.0)
        metrics |= dict(zip(PARTS, map(float, parts), strict=True))
        empty = "no_answer_accuracy is 0: every question has an answer" if there.all() else ""
        return metrics, [empty] if empty else []

    def _suiting(self, leads: np.ndarray, answered: np.ndarray, none: np.ndarray) -> float:
        """The threshold: the settled one, or while there is none, the best for these data."""
        # Else epochs could not be compared: their logits are on different scales.
        if self.threshold is not None:
            return self.threshold
        column = 0 if self.metric == "exact_match" else 1
        return best_threshold(leads, answered[:, column], none[:, column])

    def tuned(self, output: np.ndarray, data: Encoded) -> tuple[Self, np.ndarray]:
        if not self.tuning or not data.targets:
            return self, output
        leads, answered, none, _ = self._leads(output, data)
        own = replace(self, threshold=None)
        return replace(self, threshold=own._suiting(leads, answered, none)), output

    def by_class(self, output: np.ndarray, data: Encoded) -> dict[str, Any]:
        return {}

    def answer(self, table: Table, using: Using) -> Answers:
        """``answer`` with its characters ``start`` to ``end`` and its ``score``, and the best ``candidates``.

        A score is the probability of an answer among all that the model could give. Without an answer the text is empty
        and the characters are None. The answer given is the first candidate.
        """
        plain = replace(table, labels=None, label_column=None)
        output, data = using.output(plain), self.encode(plain, using.tokenizer)
        rows = [self._row(reading.context, found) for reading, found in self._found(output, data)]
        first = [row[0] for row in rows]
        names = {"answer": "text", "start": "start", "end": "end", "score": "score"}
        columns: dict[str, list[Any]] = {name: [one[key] for one in first] for name, key in names.items()}
        return Answers({**columns, "candidates": rows})

    def _row(self, context: str, found: Found) -> list[dict[str, Any]]:
        """The answer, and the next best ones."""
        listed = [(one.logit, one.start, one.end) for one in found.candidates]
        none = found.lead > (self.threshold or 0.0)
        if self.unanswerable or not listed:
            listed = [*listed, (found.null, None, None)]
            # The threshold decides whether there is an answer, and the logits which.
            listed.sort(key=lambda one: (none != (one[1] is None), -one[0]))
        rows = []
        for logit, start, end in listed[: self.candidates]:
            score = round(found.probability(logit, with_null=self.unanswerable), _DIGITS)
            text = "" if start is None else context[start:end]
            rows.append({"text": text, "start": start, "end": end, "score": score})
        return rows

    @property
    def probed(self) -> str:
        return "where answers begin"

    def for_probes(self, data: Encoded, seed: int) -> Encoded:
        """One token of each context: of half of those with an answer its first, of the others any that is not."""
        random = np.random.default_rng(seed)
        places = data.places
        assert places is not None
        read, classes, kept = [], [], []
        for row in range(len(data)):
            at = places.subset(np.array([row])).values
            start = int(data.targets[_ANSWER].values[row, 0])
            null = self._null(len(at))
            others = np.setdiff1d(np.arange(len(at)), [start, null])
            begins = start != null and random.random() < 0.5
            if begins or len(others):
                token = start if begins else int(random.choice(others))
                kept.append(row)
                read.append(at[token])
                classes.append(int(begins))
        found = data.subset(np.array(kept, np.int64))
        found = replace(found, targets={}, for_scores={}, places=None, read=np.array(read, np.int32))
        return found.with_labels(np.array(classes, np.int64))

    def _null(self, count: int) -> int:
        """The number of the null token among the ``count`` that are read of a window."""
        return 0 if _NULL[self.family] == "first" else count - 1


def _labels(table: Table) -> Sequence[Sequence[Answer]]:
    if table.labels is None:
        raise DataError(f"{table.source} has no answers", "name their column with --label")
    return table.labels  # pyright: ignore[reportReturnType]  as read_questions gives them


def _threshold(asked: str | None, unanswerable: bool) -> tuple[bool, float | None]:
    """Whether the threshold is tuned, and its value.

    Raises:
        ConfigError: neither a number nor ``tuned``, or every question has an answer.
    """
    if asked is None:
        return False, 0.0
    if not unanswerable:
        raise ConfigError([f"objective: span: threshold {asked!r}; every question has an answer"], "leave it out")
    try:
        value = math.nan if asked == TUNED else float(asked)
    except ValueError:
        value = math.inf
    if math.isinf(value) or (math.isnan(value) and asked != TUNED):
        raise ConfigError([f"objective: span: threshold {asked!r}"], f"legal: a number (0 is neutral), {TUNED}")
    return (True, None) if asked == TUNED else (False, value)
