"""``tags``: a tag for each word, which give a text's named entities, by a new output layer on every token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

import numpy as np
from pydantic import Field

from stratatune.data.aligned import Aligned, encode_words
from stratatune.data.encoded import IGNORED, LABEL, Encoded
from stratatune.data.labels import check_lengths, unseen
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table
from stratatune.data.splitting import RowLabels
from stratatune.data.tagged import WORDS, read_tagged
from stratatune.errors import ConfigError, DataError, shown
from stratatune.objectives.answers import Answers, Using
from stratatune.objectives.asked import Asked, common_of, pretended_common
from stratatune.objectives.entities import (
    OUTSIDE,
    PLAIN,
    SCHEMES,
    Entity,
    entities,
    parts,
    summary,
    type_scores,
)
from stratatune.objectives.metrics import check_metric
from stratatune.objectives.objective import Objective
from stratatune.objectives.saved import Names, saved_as
from stratatune.objectives.tag_tables import TagTables
from stratatune.objectives.tensors import at_least_fp32
from stratatune.objectives.written import check_number, chosen

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch
    from stratatune.model.question import Question

METRICS = ("f1", "precision", "recall", "macro_f1", "macro_precision", "macro_recall", "accuracy")
Align = Literal["first", "all"]
Match = Literal["conll", "strict", "partial"]
_STRIDE = 64
_PRETENDED, _PRETENDED_SHARE = (OUTSIDE, "B-x", "I-x"), 0.25
"""Tags of made-up data, and the share of the tokens that continue a word."""
_TAGS, _CONTINUES = "tags", "continues"
_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Tags(Objective):
    """A tag for each word.

    Attributes:
        tags: the names of the classes: ``O``, then ``B-`` and ``I-`` of each type; of plain tags these
            alone, ``O`` first where it is one of them.
        scheme: the scheme of the data, see :data:`stratatune.objectives.entities.SCHEMES`.
        names: the names of tags that are written as numbers, in their order.
        align: whether the ``first`` token of a word has its tag, or ``all`` of them do.
        match: when an entity is found: ``conll``, ``strict`` (an I that continues nothing is none), ``partial``.
        stride: tokens that the windows of a long text share.
    """

    name: ClassVar[str] = "tags"
    summary: ClassVar[str] = "a tag for each word (named entities, parts of speech), with a new output layer"
    head: ClassVar[str] = "token"
    families: ClassVar[frozenset[str]] = frozenset({"encoder", "decoder"})
    reads: ClassVar[Literal["one", "few", "all"]] = "all"
    metrics: ClassVar[tuple[str, ...]] = METRICS
    bounded: ClassVar[frozenset[str]] = frozenset(metrics)
    options: ClassVar[Mapping[str, type]] = {"scheme": str, "names": str, "align": str, "match": str, "stride": int}
    place: ClassVar[str] = "one word of each text"
    fitted_start: ClassVar[bool] = True

    tags: Names = saved_as("labels")
    scheme: str = "auto"
    names: tuple[str, ...] = ()
    align: Align = "first"
    match: Match = "conll"
    stride: Annotated[int, Field(ge=0)] = _STRIDE

    # --- how it is chosen and made ---------------------------------------------------------------------------------

    @classmethod
    def settle(cls, asked: Asked) -> tuple[Self, list[str]]:
        options = {"scheme": "auto", "align": "first", "match": "conll", **asked.options}
        for name, legal in (("align", get_args(Align)), ("match", get_args(Match))):
            chosen("tags", name, options[name], legal)
        read = _read_by(options, asked.data)
        asked.check_fast("tags")
        common = common_of(asked, check_metric(asked.metric or _usual(asked, options), cls.metrics, "tags"))
        names = tuple(options.pop("names", "").split())
        options["stride"] = _stride(options.get("stride"), common["max_length"], asked.tokens)
        tables = [asked.data, *asked.others]
        tags, schemes = read.classes_in(tables), [read.scheme_in(table) for table in tables]
        check_lengths(tags, asked.data.source)
        if len(tags) < 2:
            raise DataError(
                f"{asked.data.source}: every tag is {shown(tags[0] if tags else 'O')}", "at least two are needed"
            )
        said = [f"tags are read as {name.upper()}" for name in dict.fromkeys(schemes) if options["scheme"] == "auto"]
        return cls(**common, tags=tags, names=names, **{**options, "scheme": read.scheme}), said

    @property
    def labels(self) -> tuple[str, ...]:
        return self.tags

    @property
    def plain(self) -> bool:
        """Whether the tags are classes, and there are no entities."""
        return self.scheme == PLAIN or OUTSIDE not in self.tags

    # --- data ------------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, source: Any, options: ReadOptions) -> Table:
        """Read words with tags, or texts with spans; see :func:`stratatune.data.tagged.read_tagged`."""
        return read_tagged(source, options)

    @classmethod
    def labels_by_row(cls, table: Table, options: Mapping[str, Any]) -> RowLabels | None:
        """The types of the entities in each text; of plain tags these alone."""
        read = _read_by(options, table)
        rows = [set(row) for row in read.in_iob2(table)]
        return rows if read.scheme == PLAIN else [{parts(tag)[1] for tag in row} - {""} for row in rows]

    def encode(self, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        aligned = encode_words(
            table.texts[0], table.further[WORDS], tokenizer, self.max_length, self.stride, table.source
        )
        encoded = aligned.encoded
        if table.labels is None:
            return encoded
        assert encoded.places is not None
        tags = self._numbers(table)
        offsets = encoded.places.offsets
        encoded = encoded.with_targets(self._on_tokens(aligned, tags), encoded.offsets, LABEL)
        return encoded.with_targets(tags, offsets, _TAGS).with_targets(aligned.continues, name=_CONTINUES)

    @classmethod
    def pretended(cls, texts: Encoded, family: str, random: np.random.Generator) -> tuple[Self, Encoded]:
        """Make up tags: all tokens but the first and last of a text are in words, of which some have several."""
        made = cls(**pretended_common(texts, family, METRICS[0]), tags=_PRETENDED)
        tags = random.integers(0, len(_PRETENDED), len(texts.ids))
        tags[random.random(len(tags)) < _PRETENDED_SHARE] = IGNORED
        tags[texts.offsets[:-1]] = tags[texts.offsets[1:] - 1] = IGNORED
        return made, texts.with_targets(tags, texts.offsets)

    def _numbers(self, table: Table) -> np.ndarray:
        """The class of every word of a table int64 [W]."""
        index, rows = {tag: number for number, tag in enumerate(self.tags)}, self._written(table)
        for number, row in zip(table.rows, rows, strict=True):
            if (odd := next((tag for tag in row if tag not in index), None)) is not None:
                raise unseen(f"{table.source}, row {number}: tag", odd, self.tags)
        return np.array([index[tag] for row in rows for tag in row], np.int64)

    def _written(self, table: Table) -> list[list[str]]:
        """The tags of each text of a table in IOB2; plain ones as they are."""
        scheme = PLAIN if self.plain else self.scheme
        return list(TagTables(scheme, self.names, entities=not self.plain).in_iob2(table))

    def _on_tokens(self, aligned: Aligned, tags: np.ndarray) -> np.ndarray:
        """The class of every token that counts in the loss, int64 [sum T]; -100 for the others."""
        of_words = np.append(tags, IGNORED)[aligned.words]
        if self.align == "first":
            return np.where(aligned.first, of_words, IGNORED)
        # The rest of a word that begins an entity is inside of it: another B would begin another entity.
        index = {tag: number for number, tag in enumerate(self.tags)}
        inside = np.array([index.get(f"I-{parts(tag)[1]}", number) for number, tag in enumerate(self.tags)] + [IGNORED])
        going_on = np.where(of_words == IGNORED, len(self.tags), of_words)
        return np.where(aligned.first, of_words, inside[going_on])

    # --- learning --------------------------------------------------------------------------------------------------

    def question(self, batch: Batch, *, training: bool) -> Question:
        """The question for the tokens with a tag; without tags, for the first of each word."""
        from stratatune.model.question import Question

        return Question(places=_asked(batch))

    def loss(self, logits: Tensor, batch: Batch, *, training: bool = True) -> Tensor:
        """Mean cross-entropy over the tokens that have a tag: ``logits`` [n, C]."""
        from torch.nn.functional import cross_entropy

        assert batch.labels is not None
        total = cross_entropy(at_least_fp32(logits), batch.labels[_asked(batch)], reduction="sum")
        return total / max(1.0, self.weight(batch))

    def weight(self, batch: Batch) -> float:
        assert batch.labels is not None
        return float((batch.labels != IGNORED).sum())

    # --- using -----------------------------------------------------------------------------------------------------

    def predict(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """``logits`` [n, C] -> the class of each word and its probability [W, 2]; a word without a token is outside."""
        assert batch.places is not None
        there = batch.places[batch.places != IGNORED] >= 0  # [W]
        chances, classes = at_least_fp32(logits[_firsts(batch)[_asked(batch)]]).softmax(dim=1).max(dim=1)
        output = np.tile(np.array([0.0, 1.0], np.float32), (len(there), 1))  # of plain tags, the first
        output[there.cpu().numpy(), 0] = classes.cpu().numpy()
        output[there.cpu().numpy(), 1] = chances.cpu().numpy()
        return output

    def rows(self, data: Encoded) -> np.ndarray:
        assert data.places is not None
        return data.places.sizes

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        by_type, right = self._by_type(output, data)
        there = sum(one["n"] for one in by_type.values())
        notices = [] if there or self.plain else ["f1, precision and recall are 0: the data have no entity"]
        return {**summary(by_type), "accuracy": right}, notices

    def by_class(self, output: np.ndarray, data: Encoded) -> dict[str, Any]:
        """Precision, recall and F1 of each type."""
        if not data.targets:
            return {}
        by_type, _ = self._by_type(output, data)
        names = ("precision", "recall", "f1", "n")
        classes = [{"label": kind, **{name: one[name] for name in names}} for kind, one in by_type.items()]
        return {"f1": "over all entities (micro)" if not self.plain else "over all words (micro)", "classes": classes}

    def _by_type(self, output: np.ndarray, data: Encoded) -> tuple[dict[str, dict[str, float]], float]:
        """The scores of each type, and the share of the words whose tag is right."""
        truth, guess = data.targets[_TAGS].values, output[:, 0].astype(np.int64)
        # Windows of a long text are put together again: an entity may cross the border of two.
        starts = np.flatnonzero(data.targets[_CONTINUES].values == 0)
        ends = np.concatenate([[0], np.cumsum(data.targets[_TAGS].sizes)])[[*starts, len(data)]]
        rows = [[self._named(classes[a:b]) for a, b in pairwise(ends)] for classes in (truth, guess)]
        return self._compared(*rows)

    def scores_with_unseen(self, table: Table, output: np.ndarray) -> dict[str, float]:
        """The metrics of what was predicted [W, 2] for a table whose tags need not be those of training.

        An entity of a type that was not learnt is one that was missed, and a word of such a tag is wrong.
        """
        truth = self._written(table)
        ends = np.cumsum([0, *map(len, truth)])
        guess = [self._named(output[a:b, 0].astype(np.int64)) for a, b in pairwise(ends)]
        by_type, right = self._compared(truth, guess)
        return {**summary(by_type), "accuracy": right}

    def _compared(
        self, truth: Sequence[Sequence[str]], guess: Sequence[Sequence[str]]
    ) -> tuple[dict[str, dict[str, float]], float]:
        """The scores of each type, and the share of the words whose tag is right, of the tags of each text."""
        found = [list(map(self._entities, rows)) for rows in (truth, guess)]
        right = [a == b for one, other in zip(truth, guess, strict=True) for a, b in zip(one, other, strict=True)]
        return type_scores(*found, partial=self.match == "partial"), sum(right) / max(1, len(right))

    def _named(self, classes: np.ndarray) -> list[str]:
        return [self.tags[number] for number in classes]

    def _entities(self, tags: Sequence[str]) -> list[Entity]:
        if self.plain:
            return [(at, at + 1, tag) for at, tag in enumerate(tags)]
        return list(entities(tags, strict=self.match == "strict"))

    def answer(self, table: Table, using: Using) -> Answers:
        """``words`` and ``tags`` of each text, and its entities as ``spans`` of characters with their mean score."""
        output, at = using.output(table), 0
        columns: dict[str, list[Any]] = {"words": [], "tags": [], "spans": []}
        for text, words in zip(table.texts[0], table.further[WORDS], strict=True):
            rows = output[at : at + len(words)]
            at += len(words)
            tags = [self.tags[int(number)] for number in rows[:, 0]]
            found = [] if self.plain else list(entities(tags))
            columns["words"].append([text[start:end] for start, end in words])
            columns["tags"].append(tags if self.plain else _valid(tags, found))
            columns["spans"].append([_span(text, words, one, rows[:, 1]) for one in found])
        if self.plain:
            del columns["spans"]
        return Answers(columns)

    @property
    def probed(self) -> str:
        return "the tags"

    def for_probes(self, data: Encoded, seed: int) -> Encoded:
        """One word of each text, in half of the texts one of an entity or of a rarer class, if there is any."""
        # Most words are outside of every entity, so words drawn at random would show a probe one class.
        random = np.random.default_rng(seed)
        tags, places = data.targets[_TAGS], data.places
        assert places is not None
        read, classes, kept = [], [], []
        for row in range(len(data)):
            at, now = places.subset(np.array([row])).values, tags.subset(np.array([row])).values
            inside = np.flatnonzero((at >= 0) & (now != 0))
            legal = inside if len(inside) and random.random() < 0.5 else np.flatnonzero(at >= 0)
            if len(legal):
                word = int(random.choice(legal))
                kept.append(row)
                read.append(at[word])
                classes.append(now[word])
        found = replace(data.subset(np.array(kept, np.int64)), targets={}, places=None, read=np.array(read, np.int32))
        return found.with_labels(np.array(classes, np.int64))


def _usual(asked: Asked, options: Mapping[str, Any]) -> str:
    return "accuracy" if options["scheme"] == PLAIN else METRICS[0]


def _read_by(options: Mapping[str, Any], train: Table) -> TagTables:
    """How the tags of a run are written, by its options and training data.

    Raises:
        ConfigError: there is no such scheme.
    """
    scheme = chosen("tags", "scheme", options.get("scheme", "auto"), SCHEMES)
    return TagTables(scheme, tuple(options.get("names", "").split())).of_run(train)


def _stride(asked: int | None, max_length: int, tokenizer: PreTrainedTokenizerBase) -> int:
    """The number of tokens that windows share: the named one, or 64, or less if windows are small."""
    room = max_length - tokenizer.num_special_tokens_to_add()
    if room < 1:
        raise ConfigError([f"max_length: {max_length} leaves no room for a word"], "raise it")
    if asked is None:
        return min(_STRIDE, room // 2)
    check_number("tags", "stride", asked, 0 <= asked < room, f"0 to {room - 1}, for windows of {room} tokens")
    return asked


def _firsts(batch: Batch) -> Tensor:
    """The first token of each word that has one [B, T] bool."""
    import torch

    assert batch.places is not None
    found = torch.zeros_like(batch.mask)
    rows, _ = (batch.places >= 0).nonzero(as_tuple=True)
    found[rows, batch.places[batch.places >= 0]] = True
    return found


def _asked(batch: Batch) -> Tensor:
    """The tokens whose logits are wanted [B, T] bool: those that have a tag; without tags, the first of each word."""
    return _firsts(batch) if batch.labels is None else batch.labels != IGNORED


def _valid(tags: Sequence[str], found: Iterable[Entity]) -> list[str]:
    """The entities in ``found`` as tags in IOB2."""
    valid = [OUTSIDE] * len(tags)
    for start, end, kind in found:
        valid[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return valid


def _span(text: str, words: Sequence[tuple[int, int]], entity: Entity, chances: np.ndarray) -> dict[str, Any]:
    first, behind, kind = entity
    start, end = words[first][0], words[behind - 1][1]
    score = round(float(chances[first:behind].mean()), _DIGITS)
    return {"text": text[start:end], "label": kind, "start": start, "end": end, "score": score}
