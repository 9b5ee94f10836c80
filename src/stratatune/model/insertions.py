"""The modules inserted between blocks, by their depth."""

from __future__ import annotations

from typing import Any

from torch import nn


class Insertions(list[tuple[int, nn.Module]]):
    """(depth, module), in the order of depth."""

    @property
    def modules(self) -> list[tuple[int, Any]]:
        """The pairs, typed loosely for type checkers, which do not know an insertion's own attributes."""
        return list(self)

    def at(self, depth: int) -> list[Any]:
        """The modules at ``depth``."""
        return [module for there, module in self if there == depth]
