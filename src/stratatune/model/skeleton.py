"""A model's own forward without its embeddings and blocks: how masks and positions reach a block, whatever the family.

A block wants more than the hidden state: a mask in its family's form, relative positions, rotary angles. The model
makes them itself, before its blocks. So a shallow copy of it is run whose embeddings hand out a given hidden state
and whose blocks compute nothing: they record their arguments. No family's forward is written again here. The
copy shares every parameter and submodule with the model; only the containers on the way to the replaced parts are new.

Measured on one thread: 0.1 to 0.5 ms a batch more than BERT's mask alone would cost (12 to 24 blocks, 16 x 32 to
32 x 128 tokens), where one block takes 160 to 2,200 ms; so there is no second, direct way.

The same copy runs a classification head: final norm, pooler, dropout and classifier of the model, over a given last
hidden state.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Call:
    """The arguments of a block besides the hidden state."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mask(self) -> Tensor | None:
        """The attention mask, in the family's form."""
        return self.kwargs["attention_mask"] if "attention_mask" in self.kwargs else next(iter(self.args), None)


class _Done(Exception):
    """Raised once every block has been called."""


class _Tape:
    """The input and output of one run of the skeleton: the hidden state that goes in, and the recorded calls."""

    def __init__(self) -> None:
        self.hidden: Tensor | None = None
        self.calls: list[Call] = []
        self.stop_after = 0  # calls; 0: run on to the end


class _Given(nn.Module):
    """Replaces the embeddings: returns the hidden state of the tape."""

    def __init__(self, tape: _Tape) -> None:
        super().__init__()
        self.tape = tape

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | None:
        return self.tape.hidden


class _Noted(nn.Module):
    """Replaces a block: records the call and passes the hidden state on."""

    def __init__(self, tape: _Tape, block: nn.Module, returns_tuple: bool) -> None:
        super().__init__()
        self.tape = tape
        self.block = (block,)  # in a tuple: it is not part of the skeleton
        self.returns_tuple = returns_tuple

    def __getattr__(self, name: str) -> Any:
        """Look up an attribute that a model reads from its blocks (ModernBERT: which attention one has)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.block[0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs.pop("hidden_states")
        self.tape.calls.append(Call(args[1:], kwargs))
        if len(self.tape.calls) == self.tape.stop_after:
            raise _Done
        return (hidden, None) if self.returns_tuple else hidden


class Skeleton:
    """A model without its embeddings and blocks.

    Args:
        model: the whole model.
        prefix: the path to the encoder in it, such as ``"bert."``; empty when the model is the encoder.
        sources: paths below the encoder whose output is the hidden state at depth 0.
        blocks: path below the encoder of the list of blocks.
        depth: L, how often a block is called in one forward.
        returns_tuple: whether a block returns a tuple that the hidden state leads.
        settings: attributes that the encoder has here in place of its own.
    """

    def __init__(
        self,
        model: nn.Module,
        prefix: str,
        sources: list[str],
        blocks: str,
        *,
        depth: int,
        returns_tuple: bool,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        # One tape for all runs: a skeleton is made once a model, and is not re-entrant.
        self._tape = _Tape()
        self._depth = depth
        listed: Any = model.get_submodule(prefix + blocks)
        stubs: dict[str, nn.Module] = {prefix + path: _Given(self._tape) for path in sources}
        stubs[prefix + blocks] = nn.ModuleList(_Noted(self._tape, block, returns_tuple) for block in listed)
        self._model = _grafted(model, stubs)
        self._base = self._model.get_submodule(prefix.rstrip("."))
        vars(self._base).update(settings or {})

    def calls(self, hidden: Tensor, mask: Tensor) -> list[Call]:
        """The arguments of each block: ``hidden`` [B, T, D], ``mask`` [B, T] bool -> L calls."""
        try:
            # Stopping at the last block spares the final norm and whatever the model does after it.
            self._run(self._base, hidden, mask, stop_after=self._depth)
        except _Done:
            return self._tape.calls
        raise AssertionError("the model's forward never reached its last block")

    def logits(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run the model's own head on a last hidden state [B, T, D] with ``mask`` [B, T] bool.

        A head for spans gives both beginnings and ends: [B, T, 2].
        """
        out = self._run(self._model, hidden, mask, stop_after=0)
        return out.logits if "logits" in out else torch.stack([out.start_logits, out.end_logits], dim=-1)

    def _run(self, module: nn.Module, hidden: Tensor, mask: Tensor, stop_after: int) -> Any:
        tape = self._tape
        tape.hidden, tape.calls, tape.stop_after = hidden, [], stop_after
        try:
            return module(inputs_embeds=hidden, attention_mask=mask.long())
        finally:
            # Nothing of a batch is kept alive between steps.
            tape.hidden = None


def _grafted(module: nn.Module, stubs: Mapping[str, nn.Module]) -> nn.Module:
    """A shallow copy of ``module`` without its hooks, with ``stubs`` at their paths."""
    # A shallow copy shares the table of submodules with the original, so it gets its own table before a stub goes
    # in.
    clone = copy.copy(module)
    clone._modules = dict(module._modules)
    # Without hooks: those of the live model insert, cut and count, and would do it a second time here.
    clone._forward_hooks, clone._forward_pre_hooks = OrderedDict(), OrderedDict()
    for name in dict.fromkeys(path.partition(".")[0] for path in stubs):
        below = {path[len(name) + 1 :]: stub for path, stub in stubs.items() if path.partition(".")[0] == name}
        child = module._modules[name]
        assert child is not None
        clone._modules[name] = below[""] if "" in below else _grafted(child, below)
    return clone
