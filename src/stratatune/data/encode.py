"""Texts to token ids, as flat ragged arrays: no padding until a batch is made.

Shapes: N examples, T tokens of one example; ``offsets`` [N+1] cut the flat arrays [sum T] into examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from stratatune.data.readers import Table
from stratatune.data.templates import Template, mask_of
from stratatune.errors import DataError
from stratatune.hashing import Part, digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rows = list[list[int]]
LABEL = "label"
"""The name of the targets where an example has one kind of them."""
IGNORED = -100
"""A target that bears no loss, as torch has it; it fills the shorter rows of a batch."""


@dataclass(frozen=True)
class Targets:
    """What is to be predicted of N examples; the trunk never sees it.

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
        """Those of the examples ``index``, in its order."""
        if self.offsets is None:
            return Targets(self.values[index])
        return Targets(self.values[flat(self.offsets, index)], _offsets(np.diff(self.offsets)[index]))

    def padded(self, index: np.ndarray) -> np.ndarray:
        """Those of the examples ``index`` [B] as one array [B, ...], or [B, U, ...] with -100 behind the end."""
        if self.offsets is None:
            return self.values[index]
        lengths = np.diff(self.offsets)[index]
        inside = np.arange(int(lengths.max(initial=0))) < lengths[:, None]  # [B, U]
        dtype = np.int64 if self.values.dtype.kind in "iu" else self.values.dtype
        out = np.full((*inside.shape, *self.values.shape[1:]), IGNORED, dtype)
        out[inside] = self.values[flat(self.offsets, index)]
        return out


def joined(parts: Sequence[Targets]) -> Targets:
    """Several, one after the other."""
    values = np.concatenate([part.values for part in parts])
    if parts[0].offsets is None:
        return Targets(values)
    return Targets(
        values, _offsets(np.concatenate([np.diff(part.offsets) for part in parts if part.offsets is not None]))
    )


def flat(offsets: np.ndarray, index: np.ndarray) -> np.ndarray:
    """int64 [sum of lengths]: where the rows of the examples ``index`` lie in an array that ``offsets`` [N+1] cut."""
    lengths = np.diff(offsets)[index]
    starts = np.cumsum(lengths) - lengths
    return np.repeat(offsets[index] - starts, lengths) + np.arange(lengths.sum())


@dataclass(frozen=True)
class Encoded:
    """N tokenised texts, and what is to be predicted of them.

    An example is a text, unless ``groups`` say which texts belong together: then R examples are learnt and predicted,
    and the trunk still runs once for each text, however many examples it is in.

    Attributes:
        ids: int32 [sum T], every text's token ids, special tokens included, one after the other.
        types: int8 [sum T] token types, or None for models without them.
        offsets: int64 [N+1]; text i is ``ids[offsets[i]:offsets[i + 1]]``.
        read: int32 [N], the position the head reads: the mask, or 0 for [CLS].
        targets: what is to be predicted of each example, by name; empty without labels. An objective with one kind of
            targets calls them ``label``; one that reads several columns gives each a name.
        groups: the numbers of each example's texts, where examples have several (pairs that are ranked, an anchor with
            its positive and its negatives); None: each text is an example.
        notices: what the user should know, such as how many texts were cut.
        places: the positions that the head reads, where an objective reads several of each text, one after the other;
            -1 for what no token stands for. None: ``read`` says it all.
        given: float32 [N, E], what an objective represents texts by, where that is known and is not to be computed (the
            documents of a search whose index stays); NaN for the other texts. None: all are computed.
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

    def __len__(self) -> int:
        return len(self.read)

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 [N], T of every text."""
        return np.diff(self.offsets)

    @property
    def examples(self) -> int:
        """How many examples are learnt and predicted."""
        return len(self) if self.groups is None else len(self.groups)

    @cached_property
    def example_lengths(self) -> np.ndarray:
        """int64 [R], the tokens of every example; of several texts as many times the longest, as a batch pads them."""
        if self.groups is None:
            return self.lengths
        sizes, members = self.groups.sizes, self.lengths[self.groups.values]
        return np.maximum.reduceat(members, self.groups.starts) * sizes

    def texts_of(self, index: np.ndarray) -> np.ndarray:
        """The numbers of the texts of the examples ``index``: each once, in order, where examples have several."""
        return index if self.groups is None else np.unique(self.groups.subset(index).values)

    def computed_of(self, index: np.ndarray) -> np.ndarray:
        """Those of :meth:`texts_of` that are not :attr:`given`: what the trunk and the top run for."""
        texts = self.texts_of(index)
        return texts if self.given is None else texts[np.isnan(self.given[texts, 0])]

    @property
    def labels(self) -> np.ndarray | None:
        """The targets where there is one an example [N, ...]: class numbers int64, or values float32; else None."""
        found = self.targets.get(LABEL)
        return None if found is None or found.offsets is not None else found.values

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what the trunk sees and where it is read; labels take no part, so that runs share a cache."""
        parts: list[Part] = []
        for name in ("ids", "types", "offsets", "read"):
            array = getattr(self, name)
            parts.append(f"{name}:{'none' if array is None else f'{array.dtype}{array.shape}'};")
            if array is not None:
                parts.append(np.ascontiguousarray(array).data)
        return digest(*parts, size=16)

    def flat(self, index: np.ndarray) -> np.ndarray:
        """int64 [sum T of index]: where the tokens of these examples lie in the flat arrays."""
        return flat(self.offsets, index)

    def subset(self, index: Sequence[int] | np.ndarray) -> Encoded:
        """The examples of ``index``, in its order."""
        at = np.asarray(index, dtype=np.int64)
        if self.groups is not None:
            texts, groups = self.texts_of(at), self.groups.subset(at)
            found = replace(self, groups=None, targets={}).subset(texts)
            own = replace(groups, values=np.searchsorted(texts, groups.values))
            return replace(found, groups=own, targets={name: one.subset(at) for name, one in self.targets.items()})
        tokens = self.flat(at)
        return Encoded(
            ids=self.ids[tokens],
            types=None if self.types is None else self.types[tokens],
            offsets=_offsets(self.lengths[at]),
            read=self.read[at],
            targets={name: one.subset(at) for name, one in self.targets.items()},
            notices=self.notices,
            places=None if self.places is None else self.places.subset(at),
            given=None if self.given is None else self.given[at],
        )

    def with_labels(self, labels: Sequence[int] | Sequence[float] | np.ndarray) -> Encoded:
        """The same with labels [N]: integers are classes, floats are values."""
        array = np.asarray(labels)
        if array.shape != (self.examples,):
            raise ValueError(f"{array.shape} labels for {self.examples} examples")
        return self.with_targets(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))

    def with_targets(self, values: np.ndarray, offsets: np.ndarray | None = None, name: str = LABEL) -> Encoded:
        """The same with targets; ``values`` and ``offsets`` as in :class:`Targets`."""
        return replace(self, targets={**self.targets, name: Targets(values, offsets)})

    def with_groups(self, groups: Sequence[Sequence[int]]) -> Encoded:
        """The same with examples of several texts each, given by their numbers."""
        values = np.fromiter(chain.from_iterable(groups), np.int64)
        return replace(self, groups=Targets(values, _offsets(np.fromiter(map(len, groups), np.int64, len(groups)))))


def concatenate(parts: Sequence[Encoded]) -> Encoded:
    """Several data sets, encoded alike, one after the other."""
    if len(parts) == 1:
        return parts[0]
    types: list[Any] = [part.types for part in parts]
    return Encoded(
        ids=np.concatenate([part.ids for part in parts]),
        types=None if types[0] is None else np.concatenate(types),
        offsets=_offsets(np.concatenate([part.lengths for part in parts])),
        read=np.concatenate([part.read for part in parts]),
        targets={name: joined([part.targets[name] for part in parts]) for name in parts[0].targets},
        groups=None if parts[0].groups is None else joined(_behind_one_another(parts)),
        notices=tuple(notice for part in parts for notice in part.notices),
        places=None if parts[0].places is None else joined([part.places for part in parts if part.places is not None]),
        given=None
        if parts[0].given is None
        else np.concatenate([part.given for part in parts if part.given is not None]),
    )


def _behind_one_another(parts: Sequence[Encoded]) -> list[Targets]:
    """The groups of each part, their texts numbered behind those of the parts before."""
    before = np.cumsum([0, *map(len, parts)])
    return [
        replace(part.groups, values=part.groups.values + start)
        for part, start in zip(parts, before, strict=False)
        if part.groups is not None
    ]


def encode_plain(table: Table, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """One text or a pair as the model's own classification input; the head reads position 0.

    Longer ones are cut at the end, the longer text of a pair first, and counted in ``notices``.
    """
    ids, types = _tokenise(tokenizer, table.texts)
    long = [row for row, tokens in enumerate(ids) if len(tokens) > max_length]
    if long:
        cut = [[column[row] for row in long] for column in table.texts]
        how = "longest_first" if len(cut) == 2 else "only_first"
        short, short_types = _tokenise(tokenizer, cut, truncation=how, max_length=max_length)
        _put(ids, types, long, short, short_types)
    return pack(ids, types, np.zeros(len(ids), np.int32), cut_notice(len(long), table, max_length))


def encode_template(table: Table, template: Template, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """The template filled with every row, tokenised as one text; the head reads the mask.

    A row that fits comes out as the tokenizer gives it for the joined text. A longer one loses tokens at the end of its
    texts, the longer text first, never of the template.

    Raises:
        DataError: no mask token, a field without a column, or ``max_length`` too small for the template alone.
    """
    template.check(table.columns)
    mask_token, mask_id = mask_of(tokenizer)
    pieces = [template.pieces(mask_token, row) for row in zip(*table.texts, strict=True)]
    ids, types = _tokenise(tokenizer, [["".join(row) for row in pieces]])
    long = [row for row, tokens in enumerate(ids) if len(tokens) > max_length]
    # A text may itself hold the mask token; then the template's own is told apart by its place in the text.
    odd = sorted({*long, *(row for row, tokens in enumerate(ids) if tokens.count(mask_id) != 1)})
    read = np.array([row.index(mask_id) for row in ids], np.int32)
    if odd:
        short, short_types, marks = _fit(tokenizer, template, [pieces[row] for row in odd], max_length)
        _put(ids, types, odd, short, short_types)
        read[odd] = marks
    return pack(ids, types, read, cut_notice(len(long), table, max_length))


def _tokenise(
    tokenizer: PreTrainedTokenizerBase, columns: Sequence[list[str]], **options: Any
) -> tuple[Rows, Rows | None]:
    settings: dict[str, Any] = {"truncation": False, **options}
    call: Any = tokenizer  # its own annotation knows no lists in a star
    out = call(*columns, **settings, padding=False, return_attention_mask=False, verbose=False)
    return out["input_ids"], out.get("token_type_ids")


def _fit(
    tokenizer: PreTrainedTokenizerBase, template: Template, pieces: list[list[str]], max_length: int
) -> tuple[Rows, Rows | None, list[int]]:
    """Token ids, types and mask position of rows that are too long, or hold more than one mask.

    Every token's place in the joined text says which part it is of; only tokens wholly inside a field may go.
    """
    out: Any = tokenizer(
        ["".join(row) for row in pieces],
        truncation=False,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    kinds = [part.kind for part in template.parts]
    kept: list[np.ndarray] = []
    marks: list[int] = []
    for row, spans, special in zip(pieces, out["offset_mapping"], out["special_tokens_mask"], strict=True):
        places = np.asarray(spans)
        ends = np.cumsum([len(piece) for piece in row])
        parts = {kind: (end - len(piece), end) for kind, piece, end in zip(kinds, row, ends, strict=True)}
        fields = [inside(places, np.asarray(special), parts[name]) for name in ("a", "b") if name in parts]
        mask = int(np.flatnonzero((places[:, 1] > parts["mask"][0]) & (places[:, 0] < parts["mask"][1]))[0])
        keep = shorten(len(places), fields, max_length, template)
        kept.append(keep)
        marks.append(int(np.searchsorted(keep, mask)))
    ids = [[tokens[i] for i in keep] for tokens, keep in zip(out["input_ids"], kept, strict=True)]
    types = out.get("token_type_ids")
    return ids, types and [[row[i] for i in keep] for row, keep in zip(types, kept, strict=True)], marks


def inside(places: np.ndarray, special: np.ndarray, span: tuple[int, int]) -> np.ndarray:
    """The tokens whose characters all lie in ``span``; those the tokenizer added have no place and are never in."""
    return np.flatnonzero((special == 0) & (places[:, 0] >= span[0]) & (places[:, 1] <= span[1]))


def shorten(tokens: int, fields: list[np.ndarray], max_length: int, template: Template) -> np.ndarray:
    """The tokens that stay, in order, when the longer field gives up its end first."""
    room = max_length - (tokens - sum(map(len, fields)))
    if room < len(fields):
        raise DataError(
            f"template {str(template)!r} leaves room for {max(room, 0)} tokens of text within {max_length}",
            "raise the maximal length or shorten the template",
        )
    if sum(map(len, fields)) <= room:
        return np.arange(tokens)
    drop = [field[keep:] for field, keep in zip(fields, _shares([len(f) for f in fields], room), strict=True)]
    return np.setdiff1d(np.arange(tokens), np.concatenate(drop))


def _shares(lengths: list[int], room: int) -> list[int]:
    """How many tokens each field keeps: the shorter all of them if it needs no more than half, else halves."""
    if len(lengths) == 1:
        return [room]
    first = max(room - lengths[1], min(lengths[0], (room + 1) // 2))
    return [first, room - first]


def _put(ids: Rows, types: Rows | None, at: list[int], new_ids: Rows, new_types: Rows | None) -> None:
    for place, row in enumerate(at):
        ids[row] = new_ids[place]
        if types is not None and new_types is not None:
            types[row] = new_types[place]


def pack(ids: Rows, types: Rows | None, read: np.ndarray, notices: tuple[str, ...]) -> Encoded:
    """Rows of token ids as flat arrays."""
    offsets = _offsets(np.fromiter(map(len, ids), np.int64, len(ids)))
    total = int(offsets[-1])
    return Encoded(
        ids=np.fromiter(chain.from_iterable(ids), np.int32, total),
        types=None if types is None else np.fromiter(chain.from_iterable(types), np.int8, total),
        offsets=offsets,
        read=read,
        notices=notices,
    )


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def cut_notice(cut: int, table: Table, max_length: int) -> tuple[str, ...]:
    """What to say of ``cut`` texts that were too long."""
    return (f"{cut} of {len(table)} texts of {table.source} were cut to {max_length} tokens",) if cut else ()


def sample(labels: Sequence[Any] | np.ndarray, k: int, seed: int) -> np.ndarray:
    """``k`` of the examples, drawn once, each class by its share: sorted positions int64 [k].

    A class keeps at least one example where ``k`` allows it. Float labels (regression) are drawn without classes.
    """
    array = np.asarray(labels)
    random = np.random.default_rng(seed)
    if k >= len(array):
        return np.arange(len(array))
    if array.dtype.kind == "f":
        return np.sort(random.permutation(len(array))[:k])
    _, classes, counts = np.unique(array, return_inverse=True, return_counts=True)
    order = random.permutation(len(array))
    taken = [order[classes[order] == c][:quota] for c, quota in enumerate(_quotas(counts, k))]
    return np.sort(np.concatenate(taken))


def _quotas(counts: np.ndarray, k: int) -> np.ndarray:
    """How many of each class: by largest remainder, none without an example while k is enough."""
    exact = counts * k / counts.sum()
    quotas = np.maximum(np.floor(exact).astype(np.int64), int(k >= len(counts)))
    while quotas.sum() != k:
        over = quotas.sum() > k
        gap = (
            np.where(quotas > 1, quotas - exact, -np.inf)
            if over
            else np.where(quotas < counts, exact - quotas, -np.inf)
        )
        quotas[int(np.argmax(gap))] += -1 if over else 1
    return quotas
