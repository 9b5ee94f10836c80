"""``vectors``: a vector for each text, near to those of related texts; learnt from pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from stratatune.data.corpus import DOCUMENTS
from stratatune.data.encode import encode_plain
from stratatune.data.encoded import Encoded
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table
from stratatune.data.roles import Layout, read_roles, roles_in
from stratatune.data.splitting import RowGroups, RowLabels, halves
from stratatune.errors import DataError
from stratatune.objectives.answers import Answers, Using
from stratatune.objectives.asked import Asked, common_of, pretended_common
from stratatune.objectives.grouped import (
    equal_texts,
    loss_for,
    members,
    name_of,
    numbered,
    of_members,
    only_columns,
    score_range,
    starts_of_rows,
    without_faulty,
)
from stratatune.objectives.metrics import CORRELATIONS, check_metric, no_correlation
from stratatune.objectives.mining import with_negatives
from stratatune.objectives.objective import Objective
from stratatune.objectives.retrieval import RANKINGS, search_scores, unit
from stratatune.objectives.tensors import at_least_fp32
from stratatune.objectives.vector_options import Pooling, check_numbers, settled_pooling, widths_in, with_blank

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch
    from stratatune.model.question import Question

METRICS = (*RANKINGS, *CORRELATIONS)
_SCORES, _NO_SCORES = "pairs with scores", "pairs without scores"
LOSSES = {_SCORES: ("cosent", "cosine"), _NO_SCORES: ("mnrl",)}
"""Losses by the data that they learn from."""
_ANCHOR, _POSITIVE, _NEGATIVE = "anchor", "positive", "negative"
RANKED = Layout(
    {
        _ANCHOR: (_ANCHOR, "query", "question"),
        _POSITIVE: DOCUMENTS,
    },
    {_NEGATIVE: (_NEGATIVE, "neg", "hard_negative")},
    scored=False,
)
SCORED = Layout(
    {
        "sentence1": ("sentence1", "text1", "text_a", "sentence_a", "premise"),
        "sentence2": ("sentence2", "text2", "text_b", "sentence_b", "hypothesis"),
    },
    {},
    scored=True,
)
_LEGAL = "anchor, positive and any number of negatives; or sentence1, sentence2 and score"
_SYMMETRIC = (*SCORED.roles, _ANCHOR)
"""Roles whose texts the query's prompt is written before."""
_NAMES = "names"
_OPTIONS = {"scale": 20.0, "query_prompt": "", "document_prompt": "", "query_only": False, "mine": 0, "margin": 0.05}
_PIECE = 64
_DIGITS = 8


@dataclass(frozen=True, kw_only=True)
class Vectors(Objective):
    """A vector a text.

    Attributes:
        pooling: ``mean`` over the tokens, or the state of the ``first`` or the ``last`` one.
        normalise: whether vectors have length 1.
        loss_of_scores: the loss of pairs with scores: ``cosent`` or ``cosine``; pairs without learn by ``mnrl``.
        scale: the factor of cosines under ``mnrl`` and ``cosent``, 1 / temperature.
        widths: Matryoshka: the loss is also taken over the first this many values of a vector; empty: only over all.
        low, high: the scores that are scaled to the cosines 0 and 1 under ``cosine``.
        query_prompt, document_prompt: text written before each query, and each document.
        query_only: whether documents keep the vectors of the base model, so that an index of them stays.
        mine: hard negatives to be found for each example before the first epoch.
        margin: a mined negative is at most ``1 - margin`` times as near as the positive.
        mini_batch: texts that go through the top at once; larger batches are learnt from by gradient caching.
    """

    name: ClassVar[str] = "vectors"
    summary: ClassVar[str] = "a vector for each text (search, similarity), from pairs of texts"
    head: ClassVar[str] = "none"
    finds_columns: ClassVar[bool] = True
    families: ClassVar[frozenset[str]] = frozenset({"encoder", "decoder"})
    reads: ClassVar[Literal["one", "few", "all"]] = "all"
    metrics: ClassVar[tuple[str, ...]] = METRICS
    bounded: ClassVar[frozenset[str]] = frozenset(metrics)
    options: ClassVar[Mapping[str, type]] = {
        **{"pooling": str, "normalise": bool, "loss": str, "scale": float, "matryoshka": str},
        **{"query_prompt": str, "document_prompt": str, "query_only": bool},
        **{"mine": int, "margin": float, "mini_batch": int},
    }
    place: ClassVar[str] = "the pooled state"
    pipeline: ClassVar[str] = "sentence-similarity"
    settings: ClassVar[frozenset[str]] = frozenset({"corpus"})
    base_first: ClassVar[bool] = True
    whole_batches: ClassVar[bool] = True

    pooling: Pooling = "mean"
    normalise: bool = True
    loss_of_scores: Literal["cosent", "cosine"] = "cosent"
    scale: float = 20.0
    widths: tuple[int, ...] = ()
    low: float = 0.0
    high: float = 1.0
    query_prompt: str = ""
    document_prompt: str = ""
    query_only: bool = False
    mine: int = 0
    margin: float = 0.05
    mini_batch: int = _PIECE

    # --- how it is chosen and made ---------------------------------------------------------------------------------

    @classmethod
    def settle(cls, asked: Asked) -> tuple[Self, list[str]]:
        asked_for = {**_OPTIONS, "loss": "auto", "matryoshka": "", "mini_batch": _PIECE, **asked.options}
        scored = asked.data.labels is not None
        loss = loss_for("vectors", asked_for.pop("loss"), _SCORES if scored else _NO_SCORES, LOSSES)
        widths = widths_in(asked_for.pop("matryoshka"), asked.hidden)
        check_numbers(asked_for, scored=scored)
        named = asked_for.pop("pooling", None), asked_for.pop("normalise", None)
        pooling, normalise, notices = settled_pooling(asked, *named)
        for prompt in ("query_prompt", "document_prompt"):
            asked_for[prompt] = with_blank(asked_for[prompt])
        by_scores = (asked.others[0] if asked.others else asked.data).labels is not None
        metric = check_metric(asked.metric or ("spearman" if by_scores else RANKINGS[0]), cls.metrics, "vectors")
        low, high = score_range(asked, -1.0)
        if loss == "cosine" and (low, high) != (0.0, 1.0):
            notices.append(f"scores from {low:g} to {high:g} are scaled to cosines from 0 to 1")
        how: dict[str, Any] = {
            "loss_of_scores": loss if scored else "cosent",
            "pooling": pooling,
            "normalise": normalise,
        }
        return cls(**common_of(asked, metric), **how, widths=widths, low=low, high=high, **asked_for), notices

    def to_data(self) -> dict[str, Any]:
        return {**super().to_data(), "sentence_transformers": self._folder()}

    def _folder(self) -> dict[str, Any]:
        """The data that :mod:`stratatune.exits.sentence_transformers` writes beside the model."""
        prompts = {"query": self.query_prompt, "document": self.document_prompt}
        return {
            "kind": "vectors",
            "pooling": self.pooling,
            "normalise": self.normalise,
            "prompts": prompts if any(prompts.values()) else {},
            "unnamed": "query" if self._unnamed in _SYMMETRIC else "document",
            "max_length": self.max_length,
            "query_only": self.query_only,
        }

    @property
    def position(self) -> str:
        return {"mean": "the mean over the tokens", "first": "the first token", "last": "the last token"}[self.pooling]

    @property
    def positions(self) -> Literal["one", "few", "all"]:
        return self.positions_under({"pooling": self.pooling})

    @classmethod
    def positions_under(cls, options: Mapping[str, Any]) -> Literal["one", "few", "all"]:
        return "all" if options.get("pooling", cls.pooling) == "mean" else "one"

    @property
    def piece(self) -> int:
        return self.mini_batch

    # --- data ------------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, source: Any, options: ReadOptions) -> Table:
        """Read pairs by the names of their columns; see :func:`stratatune.data.roles.read_roles`."""
        table = read_roles(source, (RANKED, SCORED), _LEGAL, options)
        faults: dict[int, str] = {}
        for column, role in zip(table.texts, roles_in(table), strict=True):
            if options.need_labels and role == _NEGATIVE:
                faults |= equal_texts(column, table.texts[1], "the negative is the positive")
        return without_faulty(table, faults, options.written.bad_rows)

    @classmethod
    def labels_by_row(cls, table: Table, options: Mapping[str, Any]) -> RowLabels | None:
        """Which half of the scores each is in, where there are scores: what is trained on has both."""
        return None if table.labels is None else halves([float(score) for score in table.labels])

    @classmethod
    def learns_from_corpus(cls, options: Mapping[str, Any]) -> bool:
        return bool(options.get("mine"))

    @classmethod
    def groups_by_row(cls, table: Table) -> RowGroups | None:
        """The positives of each anchor; scored pairs are independent."""
        return RowGroups(_ANCHOR, table.texts[0]) if table.labels is None else None

    @property
    def asked_at_once(self) -> int:
        return 1

    def asks(self, columns: int) -> bool:
        return columns in (1, 2)

    def answers_for(self, columns: int) -> bool:
        """Always true: one text is answered by its vector, two by their similarity too."""
        return True

    def encode(self, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """Encode each text once, whatever the number of rows and columns it is in.

        A document of a corpus that no row has is an example of one text.

        Raises:
            DataError: pairs with scores, and a corpus.
        """
        roles = _roles(table)
        sides = [self._side(place, role) for place, role in enumerate(roles)]
        rows = [list(zip(texts, sides, strict=True)) for texts in zip(*table.texts, strict=True)]
        rows += [[one] for one in self._only_in_corpus(table)]
        # A text that keeps the base model's vector is another one than the same text that does not.
        stored, numbers = numbered([(prompt + text, stays) for text, (prompt, stays) in row] for row in rows)
        plain = Table(([text for text, _ in stored],), source=table.source)
        data = encode_plain(plain, tokenizer, self.max_length)
        ends = np.zeros(len(data), np.int32) if self.pooling != "last" else np.maximum(data.lengths - 1, 0)
        data = replace(data, read=ends.astype(np.int32)).with_groups(numbers)
        if len(roles) < 2:
            return data
        assert data.groups is not None
        names = np.array([name_of(text) for row in rows for text, _ in row], np.int64)
        data = data.with_targets(names, data.groups.offsets, _NAMES)
        return data if table.labels is None else data.with_labels(np.asarray(table.labels, np.float32))

    def _only_in_corpus(self, table: Table) -> list[tuple[str, tuple[str, bool]]]:
        """The documents of the corpus that no row has, each once, with what :meth:`_side` says of it."""
        if table.corpus is None:
            return []
        if table.labels is not None:
            raise DataError(
                f"{table.source}: pairs with scores search no documents, and there is a corpus",
                "leave out the corpus, or give queries and their documents without scores",
            )
        known, side = {text for column in table.texts[1:] for text in column}, self._side(1, _POSITIVE)
        return [(text, side) for text in dict.fromkeys(table.corpus.texts[0]) if text not in known]

    @classmethod
    def pretended(cls, texts: Encoded, family: str, random: np.random.Generator) -> tuple[Self, Encoded]:
        """Make up anchors and positives: two neighbours are a pair, whose vectors are means over the tokens."""
        pairs = np.arange(len(texts) // 2 * 2).reshape(-1, 2)
        data = texts.with_groups(pairs.tolist())
        assert data.groups is not None
        made = cls(**pretended_common(texts, family, RANKINGS[0]))
        return made, data.with_targets(pairs.flatten(), data.groups.offsets, _NAMES)

    @property
    def _unnamed(self) -> str:
        """The role of a text that comes alone and without a name: of scored pairs, every text is a query."""
        return _POSITIVE if self.label is None else next(iter(SCORED.roles))

    def _side(self, place: int, role: str) -> tuple[str, bool]:
        """The prompt before a column's texts, and whether they keep the vectors of the base model."""
        # With two sentences in one role, the first is the query: one side has to stay untuned, and either would do.
        of_query = (role or self._unnamed) in _SYMMETRIC
        return self.query_prompt if of_query else self.document_prompt, self.query_only and (place > 0 or not of_query)

    # --- the untuned model's output, seen first --------------------------------------------------------------------

    def looks(self, *, training: bool) -> bool:
        return self.query_only or (training and self.mine > 0)

    def looked(self, data: Encoded, found: np.ndarray, *, training: bool) -> tuple[Encoded, list[str]]:
        """Add the documents' vectors, where they stay, and hard negatives, where they are mined."""
        notices = []
        if training and self.mine and data.labels is None:
            data, said = with_negatives(data, found, _NAMES, self.mine, self.margin)
            notices.append(said)
        if self.query_only:
            assert data.groups is not None
            documents = np.setdiff1d(data.groups.values, data.groups.values[starts_of_rows(data.groups)])
            given = np.full_like(found, np.nan)
            given[documents] = found[documents]
            data = replace(data, given=given)
        return data, notices

    # --- learning --------------------------------------------------------------------------------------------------

    def question(self, batch: Batch, *, training: bool) -> Question:
        from stratatune.model.question import Question

        return Question(places=None if self.pooling == "mean" else batch.read[:, None])

    def represent(self, logits: Tensor, batch: Batch) -> Tensor:
        """The last hidden state, [B, T, D] or [B, 1, D], as one vector a text [B, D]."""
        from torch.nn.functional import normalize

        hidden = at_least_fp32(logits)
        if self.pooling == "mean":
            # Padding has hidden states too, which depend on the batch that a text happens to be in.
            mask = batch.mask[..., None].to(hidden.dtype)
            found = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        else:
            found = hidden[:, 0]
        return normalize(found, dim=1) if self.normalise else found

    def loss(self, logits: Tensor, batch: Batch, *, training: bool = True) -> Tensor:
        """``logits`` are the vectors [B, E]; the batch's own texts are one another's negatives."""
        from stratatune.objectives.contrast import cosent_loss, cosine_loss, matryoshka, ranking_loss, with_lone

        assert batch.groups is not None
        labels = batch.labels
        groups, names = with_lone(batch.groups, batch.targets[_NAMES])
        if not len(groups):
            return logits.sum() * 0

        def of(vectors: Tensor) -> Tensor:
            if labels is None:
                return ranking_loss(vectors, groups, names, self.scale)
            if self.loss_of_scores == "cosine":
                return cosine_loss(vectors, groups, (labels - self.low) / (self.high - self.low))
            return cosent_loss(vectors, groups, labels, self.scale)

        return matryoshka(of, logits, self.widths) if self.widths else of(logits)

    def weight(self, batch: Batch) -> float:
        """The rows that have an anchor: the documents of a corpus have no loss of their own."""
        assert batch.groups is not None
        return float((batch.groups[:, 1:2] >= 0).sum())

    # --- using -----------------------------------------------------------------------------------------------------

    def predict(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """The vectors [B, E] of the texts, one example's after another's."""
        return of_members(logits, batch).float().cpu().numpy()

    def rows(self, data: Encoded) -> np.ndarray:
        return members(data)

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        """Score pairs by the correlations of their cosines; without scores, a search among the data's own documents."""
        assert data.groups is not None
        vectors = np.zeros((len(data), output.shape[1]), np.float32)
        vectors[data.groups.values] = output
        if data.labels is not None:
            return _correlations(output, data.labels, unit)
        names, starts = data.targets[_NAMES].values, starts_of_rows(data.groups)
        right: dict[int, set[int]] = {}
        anchors: dict[int, int] = {}
        texts = np.delete(data.groups.values, starts)
        documents = dict(zip(np.delete(names, starts).tolist(), texts.tolist(), strict=True))
        numbers = {name: number for number, name in enumerate(documents)}
        for start in starts.tolist():
            anchors.setdefault(int(names[start]), int(data.groups.values[start]))
            right.setdefault(int(names[start]), set()).add(numbers[int(names[start + 1])])
        wanted, own = [frozenset(right[name]) for name in anchors], [numbers.get(name) for name in anchors]
        alone = len(data.groups) - len(starts)
        said = [f"{len(documents):,} documents are searched, {alone:,} of them from the corpus alone"] if alone else []
        return search_scores(vectors[list(anchors.values())], vectors[list(documents.values())], wanted, own), said

    def answer(self, table: Table, using: Using) -> Answers:
        """A ``vector`` for each text column, and the ``similarity`` of the first two."""
        found = self.vectors(table, using)
        written = [np.round(vectors.astype(np.float64), _DIGITS).tolist() for vectors in found]
        if len(found) == 1:
            return Answers({"vector": written[0]})
        similarity = (unit(found[0]) * unit(found[1])).sum(1)
        columns = {f"{name}_vector": one for name, one in zip(table.columns, written, strict=True)}
        return Answers({**columns, "similarity": similarity.tolist()}, values=similarity)

    def vectors(self, table: Table, using: Using) -> list[np.ndarray]:
        """The vectors [N, E] of each text column, by the tuned model or, where they stay, by the base model."""
        roles, found = _roles(table), []
        for place, role in enumerate(roles):
            one = only_columns(table, [place], roles)
            found.append(using.untuned(one) if self._side(place, role)[1] else using.output(one))
        return found

    @property
    def probed(self) -> str:
        return "whether two texts belong together" if self.label is None else "the scores"

    def for_probes(self, data: Encoded, seed: int) -> Encoded:
        """Pairs: with their scores, or each anchor with its positive (1) and with another document (0)."""
        assert data.groups is not None
        if data.labels is not None:
            return data
        random, starts = np.random.default_rng(seed), starts_of_rows(data.groups)
        anchors, positives = data.groups.values[starts], data.groups.values[starts + 1]
        others = random.permutation(positives)
        pairs = np.concatenate([np.stack([anchors, positives], 1), np.stack([anchors, others], 1)])
        labels = np.concatenate([np.ones(len(anchors), np.int64), (others == positives).astype(np.int64)])
        return replace(data, targets={}).with_groups(pairs.tolist()).with_labels(labels)


def _roles(table: Table) -> tuple[str, ...]:
    """The role of each text column; without names, an anchor and a positive."""
    return roles_in(table) or (_ANCHOR, _POSITIVE)[: len(table.texts)]


def _correlations(output: np.ndarray, scores: np.ndarray, precision: float) -> tuple[dict[str, float], list[str]]:
    """The correlations of the cosines of pairs [2 G, E] with scores [G]."""
    vectors = unit(output)
    cosines = (vectors[0::2] * vectors[1::2]).sum(1).astype(np.float64)
    # A cosine is a sum of E products, whose roundings average out.
    why = no_correlation(scores.astype(np.float64), cosines, precision / output.shape[1] ** 0.5)
    if why:
        return dict.fromkeys(CORRELATIONS, 0.0), [f"{' and '.join(CORRELATIONS)} are 0: {why}"]
    return {name: metric(scores.astype(np.float64), cosines) for name, metric in CORRELATIONS.items()}, []
