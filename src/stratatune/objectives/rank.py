"""``rank``: a score for a text with its query (cross-encoders, rerankers) or alone (reward models)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from stratatune.data.chat_tokens import ChatTemplate, Mending
from stratatune.data.encoded import IGNORED, Encoded
from stratatune.data.listwise import LISTS, listwise
from stratatune.data.preferences import ANSWERS, QUERY
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table
from stratatune.data.roles import ROLES, Layout, read_roles, roles_in
from stratatune.data.sources import open_source
from stratatune.data.splitting import RowGroups, RowLabels, halves
from stratatune.errors import ConfigError, DataError
from stratatune.objectives.answers import Answers, Using
from stratatune.objectives.asked import Asked, common_of, pretended_common
from stratatune.objectives.chat_templates import template_of
from stratatune.objectives.grouped import (
    loss_for,
    members,
    name_of,
    numbered,
    of_members,
    only_columns,
    score_range,
    without_faulty,
)
from stratatune.objectives.metrics import check_metric
from stratatune.objectives.objective import Objective
from stratatune.objectives.pooled import FAMILIES, JOINED_BY, PLACES, encode_pooled, pooled
from stratatune.objectives.preferred import ALONE, PREFERRED, QUERIES, equal_answers, queries_in
from stratatune.objectives.retrieval import RANKINGS, groups_of, pair_accuracy, ranking_scores
from stratatune.objectives.tensors import at_least_fp32
from stratatune.objectives.written import check_pieces

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch
    from stratatune.model.question import Question

METRICS = (*RANKINGS[:2], "pair_accuracy", "average_precision")
LOSSES = {"scores": ("bce", "listnet"), "chosen and rejected texts": ("pairwise",)}
"""Losses by the data that they learn from."""
SCORED = Layout(
    {"query": QUERIES, "text": ("text", "document", "passage", "answer", "response", "sentence2", "text2", "text_b")},
    {},
    scored=True,
)
_LEGAL = "query, text and score; or chosen and rejected (positive and negative), with a prompt or without"
_AS_WRITTEN = (
    "the model learnt conversations as its chat template writes them, so give lists of messages, or texts of that form"
)
_GAINS, _QUERIES = "gains", "queries"
_ACTIVATIONS = {"bce": "torch.nn.modules.activation.Sigmoid"}
_PIECE = 64
_ENOUGH = 0.5
"""The share of the queries that must have candidates with different scores for ranking metrics to select an epoch: a
query with one candidate, or equal ones, always has the best score or none."""


@dataclass(frozen=True, kw_only=True)
class Rank(Objective):
    """One score a text.

    Attributes:
        by: how it is learnt. ``bce``: each score by itself; ``listnet``: the scores of a query's candidates among each
            other; ``pairwise``: the chosen text above the rejected one.
        paired: whether a query goes before each text.
        low, high: the scores in the data that are scaled to 0 and 1 under ``bce``.
        chat_template: of conversations, in Jinja; empty where the data were texts.
        mini_batch: texts that go through the top at once; larger batches are learnt from by gradient caching.
    """

    name: ClassVar[str] = "rank"
    summary: ClassVar[str] = "a score for a text and its query (rerankers, reward models), with a new output layer"
    settings: ClassVar[frozenset[str]] = frozenset({"template"})
    head: ClassVar[str] = "sequence"
    finds_columns: ClassVar[bool] = True
    families: ClassVar[frozenset[str]] = FAMILIES - {"encoder-decoder"}
    longest: ClassVar[int] = 512
    reads: ClassVar[Literal["one", "few", "all"]] = "one"
    metrics: ClassVar[tuple[str, ...]] = METRICS
    bounded: ClassVar[frozenset[str]] = frozenset(metrics)
    options: ClassVar[Mapping[str, type]] = {"loss": str, "mini_batch": int}
    place: ClassVar[str] = "[CLS]"
    pipeline: ClassVar[str] = "text-ranking"

    by: Literal["bce", "listnet", "pairwise"] = "bce"
    paired: bool = True
    low: float = 0.0
    high: float = 1.0
    mini_batch: int = _PIECE
    chat_template: str = ""

    # --- how it is chosen and made ---------------------------------------------------------------------------------

    @classmethod
    def settle(cls, asked: Asked) -> tuple[Self, list[str]]:
        spoken = any(ANSWERS in table.further for table in (asked.data, *asked.others))
        template = template_of(asked) if spoken else ""
        data, notices = _written(asked.data, template, asked.tokens)
        scored, size = data.labels is not None, asked.options.get("mini_batch", _PIECE)
        kind = "scores" if scored else "chosen and rejected texts"
        # A list is made to be compared as one; whoever wants each score by itself names bce.
        usual_loss = "listnet" if scored and LISTS in data.further else "auto"
        by: Any = loss_for("rank", asked.options.get("loss", usual_loss), kind, LOSSES)
        check_pieces("rank", size)
        queries = [texts for texts, role in zip(data.texts, roles_in(data), strict=True) if role == "query"]
        several = bool(queries) and len(set(queries[0])) < len(queries[0])
        if by == "listnet" and not several:
            notices.append("every query has one candidate: listnet has nothing to compare them with")
        low, high = score_range(asked, 0.0)
        if by == "bce" and (low, high) != (0.0, 1.0):
            notices.append(f"scores from {low:g} to {high:g} are scaled to 0 to 1")
        ranks = scored and bool(queries) and _share_in_order(queries[0], data.labels or []) >= _ENOUGH
        usual = "pair_accuracy" if not scored else RANKINGS[0] if ranks else "average_precision"
        common = common_of(asked, check_metric(asked.metric or usual, cls.metrics, "rank"))
        own = {"paired": bool(queries), "low": low, "high": high, "mini_batch": size, "chat_template": template}
        return cls(**common, by=by, **own), notices

    def to_data(self) -> dict[str, Any]:
        activation = _ACTIVATIONS.get(self.by, "torch.nn.modules.linear.Identity")
        config = {"sentence_transformers": {"activation_fn": activation, "version": "5.0.0"}}
        folder = {"kind": "rank", "max_length": self.max_length, "config": config}
        if self.paired:
            folder["joined_by"] = JOINED_BY.get(self.family, "")
        return {**super().to_data(), "sentence_transformers": folder}

    @property
    def position(self) -> str:
        return PLACES[self.family]

    @property
    def piece(self) -> int:
        return self.mini_batch

    @property
    def asked_at_once(self) -> int:
        return 2 if self.paired else 1

    @property
    def converses(self) -> bool:
        return bool(self.chat_template)

    def answers_for(self, columns: int) -> bool:
        return columns >= self.asked_at_once

    # --- data ------------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, source: Any, options: ReadOptions) -> Table:
        """Read texts or conversations by the names of their columns; see :func:`stratatune.data.roles.read_roles`."""
        frame = open_source(source, options.known_task, options.split, options.written)
        lists = listwise(frame, need_labels=options.need_labels, label=options.label) if frame.rows else None
        if lists is not None:  # its columns have our own names, except that of the query
            usual = [name for name in lists.names if name.casefold() in QUERIES]
            query = next((name for name in options.text_columns or () if name in lists.names), next(iter(usual), None))
            options = replace(options, text=(query, "text") if query else ("text",), label=None)
        table = read_roles(lists or frame, (SCORED, PREFERRED, ALONE), _LEGAL, options, spoken=True)
        if lists is not None:
            table = replace(table, further={**table.further, LISTS: [True] * len(table)})
        if not options.need_labels:
            return table
        faults = equal_answers(table, "the rejected text is the chosen one")
        return without_faulty(table, faults, options.written.bad_rows)

    @classmethod
    def labels_by_row(cls, table: Table, options: Mapping[str, Any]) -> RowLabels | None:
        """Which half of the scores each is in, where there are scores: what is trained on has both."""
        return None if table.labels is None else halves([float(score) for score in table.labels])

    @classmethod
    def groups_by_row(cls, table: Table) -> RowGroups | None:
        """The candidates of each query, or the preferences of each prompt."""
        return queries_in(table)

    def encode(self, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """Encode each text, or each pair of a query and a text, once; examples group them as the loss compares them."""
        table, _ = _written(table, self.chat_template, tokenizer)
        roles = _roles(table)
        queries = next((texts for texts, role in zip(table.texts, roles, strict=True) if role == "query"), None)
        if (queries is None) == self.paired:
            raise ConfigError(
                [f"{table.source}: {'no query' if self.paired else 'a query'}, and the model was trained otherwise"],
                f"legal: {_LEGAL}",
            )
        others = [texts for texts, role in zip(table.texts, roles, strict=True) if role != "query"]
        heads = [()] * len(table) if queries is None else [(query,) for query in queries]
        stored, rows = numbered([(*head, text) for text in texts] for head, *texts in zip(heads, *others, strict=True))
        plain = Table(tuple(map(list, zip(*stored, strict=True))), columns=table.columns, source=table.source)
        data = encode_pooled(self.family, plain, tokenizer, self.max_length)
        if len(others) > 1:
            # Compared within their row: a text that is chosen in one may be rejected in another.
            names = list(range(len(rows)))
            gains = [[self.high, *[self.low] * (len(row) - 1)] for row in rows]
        elif table.labels is None:
            return data.with_groups(rows)
        else:
            names = [name_of(*(head or texts)) for head, *texts in zip(heads, *others, strict=True)]
            gains = [[float(score)] for score in table.labels]  # pyright: ignore[reportArgumentType]
            if self.by != "bce":  # the candidates of a query are compared
                rows, gains, names = _lists(rows, gains, names)
        data = data.with_groups(rows)
        assert data.groups is not None
        flat = np.array([gain for row in gains for gain in row], np.float32)
        data = data.with_targets(flat, data.groups.offsets, _GAINS)
        data = data.with_targets(np.array(names, np.int64), name=_QUERIES)
        return _that_differ(data, rows, table, self.max_length) if len(others) > 1 else data

    @classmethod
    def pretended(cls, texts: Encoded, family: str, random: np.random.Generator) -> tuple[Self, Encoded]:
        """Make up pairs of a query and a text with a score of 0 or 1, each a separate example."""
        numbers = np.arange(len(texts))
        data = texts.with_groups(numbers[:, None].tolist())
        assert data.groups is not None
        data = data.with_targets(random.integers(0, 2, len(texts)).astype(np.float32), data.groups.offsets, _GAINS)
        return cls(**pretended_common(texts, family, RANKINGS[0])), data.with_targets(numbers, name=_QUERIES)

    # --- learning --------------------------------------------------------------------------------------------------

    def question(self, batch: Batch, *, training: bool) -> Question:
        return pooled(batch)

    def loss(self, logits: Tensor, batch: Batch, *, training: bool = True) -> Tensor:
        """The loss of ``logits`` [B, 1] of the texts, compared as :attr:`by` says."""
        from stratatune.objectives.ranking_losses import listnet_loss, pairwise_loss, pointwise_loss

        assert batch.groups is not None
        there = batch.groups >= 0
        scores = at_least_fp32(logits)[:, 0][batch.groups.clamp(min=0)]  # [G, K]
        gains = batch.targets[_GAINS]
        if self.by == "pairwise":
            return pairwise_loss(scores, gains, there)
        if self.by == "listnet":
            return listnet_loss(scores, gains, there)
        return pointwise_loss(scores, (gains - self.low) / (self.high - self.low), there)

    def weight(self, batch: Batch) -> float:
        """The number of examples under ``listnet``; else of texts, or of pairs of a chosen and a rejected one."""
        assert batch.groups is not None
        if self.by == "listnet":
            return float(batch.examples)
        gains = batch.targets[_GAINS]
        if self.by == "bce":
            return float((batch.groups >= 0).sum())
        known = gains != IGNORED
        return float(((gains[:, :, None] > gains[:, None, :]) & known[:, :, None] & known[:, None, :]).sum())

    # --- using -----------------------------------------------------------------------------------------------------

    def predict(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """Scores [B] of the texts, one example's after another's; under ``bce`` from 0 to 1."""
        found = at_least_fp32(logits)[:, 0]
        found = found.sigmoid() if self.by == "bce" else found
        return of_members(found, batch).cpu().numpy()

    def rows(self, data: Encoded) -> np.ndarray:
        return members(data)

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        """Score each query's candidates, the highest first, equal scores in any order; pairs are within a query."""
        from sklearn.metrics import average_precision_score

        assert data.groups is not None
        gains = data.targets[_GAINS].values.astype(np.float64)
        queries = np.repeat(data.targets[_QUERIES].values, data.groups.sizes)
        by_query = _together(queries)
        ranked, lists = [], 0
        for at in by_query:
            own = gains[at] - gains.min()  # nDCG's gains begin at 0; a similarity, say, may begin at -1
            ranked.append((groups_of(output[at], own), own.tolist()))
            lists += len(at) > 1
        notices = [] if lists else ["every query has one candidate: pair_accuracy compares all rows"]
        ordered = sum(np.ptp(gains[at]) > 0 for at in by_query)
        if lists and ordered < _ENOUGH * len(by_query):
            notices.append(
                f"{ordered:,} of {len(by_query):,} queries have candidates with different scores, and the others say "
                f"nothing about order: {METRICS[0]}, {METRICS[1]} and pair_accuracy say little about this model"
            )
        if np.ptp(gains) == 0:
            notices.append(f"{', '.join(METRICS)} are 0: every score is {gains[0]:g}, so there is no order to be found")
        found = {name: value for name, value in ranking_scores(ranked).items() if name in METRICS}
        found["pair_accuracy"] = pair_accuracy(output, gains, by_query if lists else [np.arange(len(gains))])
        right = gains > (gains.min() + gains.max()) / 2
        found["average_precision"] = float(average_precision_score(right, output)) if right.any() else 0.0
        return found, notices

    def answer(self, table: Table, using: Using) -> Answers:
        """A ``score`` of each text, in one column for each column of texts."""
        if self.chat_template and ANSWERS not in table.further:
            notices = [f"{table.source} holds texts, which are read as they are: {_AS_WRITTEN}"]
        else:
            table, notices = _written(table, self.chat_template, using.tokenizer)
        roles = _roles(table)
        query = [at for at, role in enumerate(roles) if role == "query"]
        others = [at for at, role in enumerate(roles) if role != "query"]
        found: dict[str, np.ndarray] = {}
        for at in others:
            name = "score" if len(others) == 1 else f"{table.columns[at]}_score"
            found[name] = using.output(only_columns(table, [*query, at], roles))
        columns = {name: values.tolist() for name, values in found.items()}
        return Answers(columns, values=next(iter(found.values())), notices=tuple(notices))

    @property
    def probed(self) -> str:
        return "which text is the chosen one" if self.by == "pairwise" else "the scores"

    def for_probes(self, data: Encoded, seed: int) -> Encoded:
        """Each text alone: with its score, or as chosen (1) or not (0)."""
        assert data.groups is not None
        gains = data.targets[_GAINS].values
        single = data.ungrouped().subset(data.groups.values)
        whole = bool(np.isin(gains, (0.0, 1.0)).all())
        return single.with_labels(gains.astype(np.int64) if whole else gains)


def _written(table: Table, template: str, tokenizer: PreTrainedTokenizerBase) -> tuple[Table, list[str]]:
    """A table whose conversations are texts, as the template writes them, and notices; without the prompts alone.

    Raises:
        DataError: the template refuses a conversation, or there is none since the model was trained on texts.
    """
    if ANSWERS not in table.further:
        return table, []
    if not template:
        raise DataError(
            f"{table.source} holds lists of messages, and the model was trained on texts",
            "write each as one text, as those of training were",
        )
    chat, rows = ChatTemplate(template, tokenizer), list(zip(table.rows, table.further[ANSWERS], strict=True))
    kept = [(name, role) for name, role in zip(table.columns, roles_in(table), strict=True) if role != QUERY]
    texts, mending = tuple([] for _ in kept), Mending()
    for number, row in rows:
        found = [chat.whole(row[name], f"{table.source}, row {number}") for name, _ in kept]
        mending.add(number, tuple(dict.fromkeys(what for _, mended in found for what in mended)))
        for column, (text, _) in zip(texts, found, strict=True):
            column.append(text)
    made = replace(
        table,
        texts=texts,
        columns=tuple(name for name, _ in kept),
        further={ROLES: [tuple(role for _, role in kept)] * len(table)},
    )
    return made, mending.notices(table.source, len(table))


def _roles(table: Table) -> tuple[str, ...]:
    """The role of each text column; without names, a text, or a query and a text."""
    return roles_in(table) or ("query", "text")[-len(table.texts) :]


def _share_in_order(queries: Sequence[str], gains: Sequence[float | str]) -> float:
    """The share of the distinct queries whose candidates have different scores."""
    found: dict[str, set[float | str]] = {}
    for query, gain in zip(queries, gains, strict=True):
        found.setdefault(query, set()).add(gain)
    return sum(len(own) > 1 for own in found.values()) / max(1, len(found))


def _lists(
    rows: list[list[int]], gains: list[list[float]], names: list[int]
) -> tuple[list[list[int]], list[list[float]], list[int]]:
    """Join rows of one text each to one row a query; if a query has a text twice, the higher gain counts."""
    found: dict[int, dict[int, float]] = {}
    for (text,), (gain,), name in zip(rows, gains, names, strict=True):
        own = found.setdefault(name, {})
        own[text] = max(gain, own.get(text, gain))
    return [list(own) for own in found.values()], [list(own.values()) for own in found.values()], list(found)


def _that_differ(data: Encoded, rows: list[list[int]], table: Table, max_length: int) -> Encoded:
    """The rows whose rejected texts are not the chosen one within ``max_length`` tokens; a notice counts the others.

    Raises:
        DataError: no row is left.
    """
    tokens = [data.ids[start:end].tobytes() for start, end in itertools.pairwise(data.offsets.tolist())]
    kept = [at for at, (chosen, *others) in enumerate(rows) if all(tokens[chosen] != tokens[one] for one in others)]
    if len(kept) == len(rows):
        return data
    if not kept:
        raise DataError(
            f"{table.source}: within {max_length} tokens no row has texts that differ", "raise --max-length"
        )
    said = (
        f"{table.source}: {len(rows) - len(kept):,} of {len(rows):,} rows are left out: their texts do not differ "
        f"within {max_length} tokens (--max-length)"
    )
    return replace(data.subset(kept), notices=(*data.notices, said))


def _together(names: np.ndarray) -> list[np.ndarray]:
    """The positions of equal names, each group in order."""
    order = np.argsort(names, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(names[order])) + 1) if len(names) else []
