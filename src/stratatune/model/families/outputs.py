"""The hidden state in a block's return value."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def hidden_in(output: Any) -> Tensor:
    """The hidden state in a block's return value."""
    return output[0] if isinstance(output, tuple) else output


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """A block's return value, with another hidden state."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
