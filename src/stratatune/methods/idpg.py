"""IDPG: a prompt at the input, made from the whole text (Wu et al., 2022; S-IDPG-PHM, its single-layer form).

What differs from the paper's code: the vectors come in after the embeddings, as LPT's at depth 0 do, so they get no
position and no embedding norm, and the text keeps its own positions, with which the model also reads it for M(x). Where
a plan trains the blocks too, M is the model as it is then; no gradient goes through that pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stratatune.methods.late_prompt import put_first
from stratatune.methods.precision import as_trained
from stratatune.methods.site import Place
from stratatune.plan.methods import Idpg

REFUSES_MERGE = (
    "an instance-dependent prompt lengthens the sequence with vectors made from the text; no weight can hold it"
)
_SPREAD = 0.05


class PhmLinear(nn.Module):
    """``x H^T + b`` with ``H = sum_i kron(A_i, B_i)``: parameterised hypercomplex product (Zhang et al., 2021, eq. 3).

    A_i [n, n], B_i [out / n, in / n], i = 1..n. Everything starts normal (0.05), as in IDPG's code.

    Args:
        rules: the A_i [n, n, n]; another layer may share them.
        ins: width of x.
        outs: width of the result.
    """

    def __init__(self, rules: nn.Parameter, ins: int, outs: int) -> None:
        super().__init__()
        n = rules.shape[0]
        self.rules = rules
        self.tiles = nn.Parameter(torch.empty(n, outs // n, ins // n))
        self.bias = nn.Parameter(torch.empty(outs))
        nn.init.normal_(self.tiles, std=_SPREAD)
        nn.init.normal_(self.bias, std=_SPREAD)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [B, in] -> [B, out]; the sum is taken without building H."""
        n, _, ins = self.tiles.shape
        parts = torch.einsum("iac,iod,bcd->bao", self.rules, self.tiles, x.view(len(x), n, ins))
        return parts.reshape(len(x), -1) + self.bias


class IdpgInsertion(nn.Module):
    """``SP = reshape(H2 dropout(gelu(H1 dropout(M(x)) + b1)) + b2)``, put before the text at depth 0.

    Args:
        read: M: ``(hidden [B, T, D], mask [B, T]) -> [B, D]``.
        hidden: D.
        tokens: P.
        bottleneck: m.
        phm: n, the dimension of the hypercomplex numbers.
        shared: whether both layers share the A_i.
        dropout: probability on the input of each layer.
    """

    def __init__(
        self,
        read: Callable[[Tensor, Tensor], Tensor],
        hidden: int,
        tokens: int,
        bottleneck: int,
        phm: int,
        shared: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.read, self.tokens = read, tokens
        first = _rules(phm)
        self.down = PhmLinear(first, hidden, bottleneck)
        self.up = PhmLinear(first if shared else _rules(phm), bottleneck, tokens * hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``hidden`` [B, T, D] at depth 0, ``mask`` [B, T] bool -> [B, P+T, D], [B, P+T]."""
        said = self.dropout(as_trained(self.read(hidden, mask), self.down.tiles))  # [B, D]
        prompt = self.up(self.dropout(nn.functional.gelu(self.down(said))))  # [B, P*D]
        return put_first(prompt.view(len(hidden), self.tokens, -1), hidden, mask)


def _rules(n: int) -> nn.Parameter:
    rules = nn.Parameter(torch.empty(n, n, n))
    nn.init.normal_(rules, std=_SPREAD)
    return rules


def build(config: Idpg, place: Place) -> IdpgInsertion:
    """The generator of ``config`` at ``place``."""
    return IdpgInsertion(
        place.read, place.hidden, config.tokens, config.bottleneck, config.phm, config.shared, config.dropout
    )
