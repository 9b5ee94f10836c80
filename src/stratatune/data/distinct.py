"""Equal texts of a data set: a result that a model computes for one of them serves the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from stratatune.hashing import Part, fast_digests

MANY = 0.05
"""The least share of repeated texts at which it pays to run the distinct ones before anything else."""


@dataclass(frozen=True)
class Distinct:
    """The M distinct texts among N.

    Attributes:
        first: int64 [M], where each distinct text comes first, in order.
        number: int64 [N], which of the M each text is.
    """

    first: np.ndarray
    number: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[Iterable[Part]]) -> Distinct:
        """Find the distinct ones of N texts, each given by all the parts that must be equal."""
        # By hashes, sorted: a dictionary of the texts would take many times their memory, and there may be millions.
        hashes = np.frombuffer(fast_digests(texts), np.uint64).reshape(-1, 2)
        order = np.lexsort(hashes.T)  # stable, so of equal ones the first comes first
        new = np.ones(len(order), bool)
        new[1:] = (hashes[order[1:]] != hashes[order[:-1]]).any(axis=1)
        first = order[new]
        number = np.empty_like(order)
        number[order] = np.argsort(np.argsort(first))[np.cumsum(new) - 1]
        return cls(np.sort(first), number)

    @property
    def same(self) -> np.ndarray:
        """The first text that is equal to each one: int64 [N]."""
        return self.first[self.number]

    @property
    def repeated(self) -> int:
        """The number of texts that are equal to an earlier one."""
        return len(self.number) - len(self.first)

    @property
    def many(self) -> bool:
        """Whether enough texts repeat for a separate pass over the distinct ones to pay."""
        return self.repeated > 0 and self.repeated >= MANY * len(self.number)
