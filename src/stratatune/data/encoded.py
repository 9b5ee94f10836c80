"""Token ids and their targets, as flat ragged arrays: no padding until a batch is made.

Shapes: N examples, T tokens of one example; ``offsets`` [N+1] cut the flat arrays [sum T] into examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from stratatune.data.distinct import Distinct
from stratatune.hashing import Part, digest

LABEL = "label"
"""The name of the targets if an example has one kind of them."""
IGNORED = -100
"""A target that does not count in the loss, as torch has it; it fills the shorter rows of a batch."""


@dataclass(frozen=True)
class Targets:
    """The targets of N examples; the trunk never sees them.

    Attributes:
        values: one row an example: class numbers int64 [N], values float32 [N], sets of labels [N, L]; or with
            ``offsets`` any number of rows an example: a tag for each token [sum T], the tokens of a text [sum U], spans
            [sum S, 2].
        offsets: int64 [N+1]; the rows of example i are ``values[offsets[i]:offsets[i + 1]]``. None: one an example.
    """

    values: np.ndarray
    offsets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    @property
    def starts(self) -> np.ndarray:
        """int64 [N], the first row of each example."""
        return np.arange(len(self)) if self.offsets is None else self.offsets[:-1]

    @property
    def sizes(self) -> np.ndarray:
        """int64 [N], how many rows each example has."""
        return np.ones(len(self), np.int64) if self.offsets is None else np.diff(self.offsets)

    def subset(self, index: np.ndarray) -> Targets:
        """The targets of the examples ``index``, in its order."""
        if self.offsets is None:
            return Targets(self.values[index])
        return Targets(self.values[flat(self.offsets, index)], offsets_of(np.diff(self.offsets)[index]))

    def padded(self, index: np.ndarray) -> np.ndarray:
        """The targets of the examples ``index`` [B] as one array [B, ...], or [B, U, ...] with -100 after the end."""
        if self.offsets is None:
            return self.values[index]
        lengths = np.diff(self.offsets)[index]
        inside = np.arange(int(lengths.max(initial=0))) < lengths[:, None]  # [B, U]
        dtype = np.int64 if self.values.dtype.kind in "iu" else self.values.dtype
        out = np.full((*inside.shape, *self.values.shape[1:]), IGNORED, dtype)
        out[inside] = self.values[flat(self.offsets, index)]
        return out


def joined(parts: Sequence[Targets]) -> Targets:
    """Concatenate several."""
    values = np.concatenate([part.values for part in parts])
    if parts[0].offsets is None:
        return Targets(values)
    return Targets(
        values, offsets_of(np.concatenate([np.diff(part.offsets) for part in parts if part.offsets is not None]))
    )


def flat(offsets: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The positions, int64 [sum of lengths], of the rows of examples ``index`` in an array cut by ``offsets`` [N+1]."""
    lengths = np.diff(offsets)[index]
    starts = np.cumsum(lengths) - lengths
    return np.repeat(offsets[index] - starts, lengths) + np.arange(lengths.sum())


@dataclass(frozen=True)
class Encoded:
    """N tokenised texts and their targets.

    An example is a text, unless ``groups`` say which texts belong together: then R examples are learnt and predicted,
    and the trunk still runs once for each text, however many examples it is in.

    Attributes:
        ids: int32 [sum T], every text's token ids, special tokens included, one after the other.
        types: int8 [sum T] token types, or None for models without them.
        offsets: int64 [N+1]; text i is ``ids[offsets[i]:offsets[i + 1]]``.
        read: int32 [N], the position the head reads: the mask, or 0 for [CLS].
        targets: the targets of each example, by name; empty without labels. An objective with one kind of
            targets calls them ``label``; one that reads several columns gives each a name.
        groups: the numbers of each example's texts, where examples have several (pairs that are ranked, an anchor with
            its positive and its negatives); None: each text is an example.
        notices: warnings for the user, such as the number of texts that were cut.
        places: the positions that the head reads, where an objective reads several of each text, one after the other;
            -1 for what no token represents. None: ``read`` says it all.
        given: float32 [N, E], an objective's representation of texts, where that is known and is not to be computed
            (the documents of a search whose index stays); NaN for the other texts. None: all are computed.
        for_scores: what the scores read of each example besides its targets, by name: the text in which an answer lies,
            say, as an object. No batch holds it, so it need not be numbers, and data without targets may have it.
    """

    ids: np.ndarray
    types: np.ndarray | None
    offsets: np.ndarray
    read: np.ndarray
    targets: Mapping[str, Targets] = field(default_factory=dict)
    groups: Targets | None = None
    notices: tuple[str, ...] = ()
    places: Targets | None = None
    given: np.ndarray | None = None
    for_scores: Mapping[str, Targets] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.read)

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 [N], T of every text."""
        return np.diff(self.offsets)

    @property
    def examples(self) -> int:
        """The number of examples that are learnt and predicted."""
        return len(self) if self.groups is None else len(self.groups)

    @cached_property
    def example_lengths(self) -> np.ndarray:
        """int64 [R], the tokens of every example; each of its texts counts as its longest, as a batch pads them."""
        return padded_lengths(self.lengths, self.groups)

    def texts_of(self, index: np.ndarray) -> np.ndarray:
        """The numbers of the texts of the examples ``index``: each once, in order, where examples have several."""
        return index if self.groups is None else np.unique(self.groups.subset(index).values)

    def computed_of(self, index: np.ndarray) -> np.ndarray:
        """The texts of :meth:`texts_of` that are not :attr:`given`: the trunk and the top run for these."""
        texts = self.texts_of(index)
        return texts if self.given is None else texts[np.isnan(self.given[texts, 0])]

    @property
    def labels(self) -> np.ndarray | None:
        """The targets [N, ...] if there is one an example: class numbers int64, or values float32; else None."""
        found = self.targets.get(LABEL)
        return None if found is None or found.offsets is not None else found.values

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the trunk's input and the positions read; labels take no part, so that runs share a cache."""
        parts: list[Part] = []
        for name in ("ids", "types", "offsets", "read"):
            array = getattr(self, name)
            parts.append(f"{name}:{'none' if array is None else f'{array.dtype}{array.shape}'};")
            if array is not None:
                parts.append(np.ascontiguousarray(array).data)
        return digest(*parts, size=16)

    @cached_property
    def distinct(self) -> Distinct:
        """The texts that are equal: the same tokens, read at the same positions."""
        return Distinct.of(self._content(number) for number in range(len(self)))

    def _content(self, number: int) -> Iterator[Part]:
        start, end = self.offsets[number : number + 2]
        yield f"{end - start},{self.read[number]};"
        yield self.ids[start:end].tobytes()
        if self.types is not None:
            yield self.types[start:end].tobytes()
        if self.places is not None:
            yield self.places.subset(np.array([number])).values.tobytes()

    @property
    def kept_as(self) -> str:
        """The name of the data in a trunk cache's key: the fingerprint, and where texts repeat, which of them are kept.

        Equal tokens are two texts where they are read at other places, which the fingerprint does not hold.
        """
        if not self.distinct.repeated:
            return self.fingerprint
        name = f"{self.fingerprint}/{len(self.distinct.first)}"
        return name if self.places is None else f"{name}/{digest(self.distinct.number.tobytes(), size=8)}"

    def flat(self, index: np.ndarray) -> np.ndarray:
        """The positions, int64 [sum T of index], of these examples' tokens in the flat arrays."""
        return flat(self.offsets, index)

    def subset(self, index: Sequence[int] | np.ndarray) -> Encoded:
        """The examples of ``index``, in its order."""
        at = np.asarray(index, dtype=np.int64)
        if self.groups is not None:
            texts, groups = self.texts_of(at), self.groups.subset(at)
            found = replace(self, groups=None, targets={}, for_scores={}).subset(texts)
            own = replace(groups, values=np.searchsorted(texts, groups.values))
            return replace(found, groups=own, **self._of_examples(at))
        tokens = self.flat(at)
        return Encoded(
            ids=self.ids[tokens],
            types=None if self.types is None else self.types[tokens],
            offsets=offsets_of(self.lengths[at]),
            read=self.read[at],
            notices=self.notices,
            places=None if self.places is None else self.places.subset(at),
            given=None if self.given is None else self.given[at],
            **self._of_examples(at),
        )

    def _of_examples(self, at: np.ndarray) -> dict[str, Any]:
        """What the examples ``at`` have beside their texts."""
        parts = {"targets": self.targets, "for_scores": self.for_scores}
        return {name: {key: one.subset(at) for key, one in part.items()} for name, part in parts.items()}

    def ungrouped(self) -> Encoded:
        """The texts [N], each an example by itself, without targets."""
        return replace(self, groups=None, targets={}, for_scores={})

    def with_labels(self, labels: Sequence[int] | Sequence[float] | np.ndarray) -> Encoded:
        """The data with labels [N]: integers are classes, floats are values."""
        array = np.asarray(labels)
        if array.shape != (self.examples,):
            raise ValueError(f"{array.shape} labels for {self.examples} examples")
        return self.with_targets(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))

    def with_targets(self, values: np.ndarray, offsets: np.ndarray | None = None, name: str = LABEL) -> Encoded:
        """The data with targets; ``values`` and ``offsets`` as in :class:`Targets`."""
        return replace(self, targets={**self.targets, name: Targets(values, offsets)})

    def with_groups(self, groups: Sequence[Sequence[int]]) -> Encoded:
        """The data with examples of several texts each, given by their numbers."""
        values = np.fromiter(chain.from_iterable(groups), np.int64)
        return replace(self, groups=Targets(values, offsets_of(np.fromiter(map(len, groups), np.int64, len(groups)))))


def padded_lengths(lengths: np.ndarray, groups: Targets | None) -> np.ndarray:
    """The lengths of :attr:`Encoded.example_lengths`, from those of the texts [N] and the numbers of each example's."""
    if groups is None:
        return lengths
    return np.maximum.reduceat(lengths[groups.values], groups.starts) * groups.sizes


def concatenate(parts: Sequence[Encoded]) -> Encoded:
    """Concatenate data sets with the same encoding."""
    if len(parts) == 1:
        return parts[0]
    types: list[Any] = [part.types for part in parts]
    return Encoded(
        ids=np.concatenate([part.ids for part in parts]),
        types=None if types[0] is None else np.concatenate(types),
        offsets=offsets_of(np.concatenate([part.lengths for part in parts])),
        read=np.concatenate([part.read for part in parts]),
        targets={name: joined([part.targets[name] for part in parts]) for name in parts[0].targets},
        groups=None if parts[0].groups is None else joined(_behind_one_another(parts)),
        notices=tuple(notice for part in parts for notice in part.notices),
        places=None if parts[0].places is None else joined([part.places for part in parts if part.places is not None]),
        given=None
        if parts[0].given is None
        else np.concatenate([part.given for part in parts if part.given is not None]),
        for_scores={name: joined([part.for_scores[name] for part in parts]) for name in parts[0].for_scores},
    )


def _behind_one_another(parts: Sequence[Encoded]) -> list[Targets]:
    """The groups of each part, their texts numbered after those of the parts before."""
    before = np.cumsum([0, *map(len, parts)])
    return [
        replace(part.groups, values=part.groups.values + start)
        for part, start in zip(parts, before, strict=False)
        if part.groups is not None
    ]


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """The start of each of N rows of these lengths in an array that holds all of them, and its end: int64 [N+1]."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
