"""Insertions between two blocks, or at the input: one small frozen config each, with its parameter count by formula.

Shape legend: ``D`` hidden, ``m`` bottleneck, ``P`` prompt tokens, ``n`` dimension of hypercomplex numbers.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from stratatune.errors import PlanError
from stratatune.plan.abstract import Chance, Count, Insertion
from stratatune.shapes.shape import Shape


class Adapter(Insertion, frozen=True):
    """``h + W2 relu(W1 LayerNorm(h) + b1) + b2`` at one depth (BFT eq. 3-5): 2 D + D m + m + m D + D."""

    kind: Literal["adapter"] = "adapter"
    bottleneck: Count = 16
    stack: Literal["dec"] | None = None
    """``dec``: the depth counts the blocks of an encoder-decoder's decoder, from 1; else its encoder's."""

    @property
    def in_decoder(self) -> bool:
        return self.stack == "dec"

    def parameters(self, shape: Shape) -> int:
        width, narrow = shape.hidden, self.bottleneck
        return 2 * width + (width * narrow + narrow) + (narrow * width + width)

    def multiplications_at(self, shape: Shape, length: int) -> int:
        return 2 * shape.hidden * self.bottleneck * length

    def entered(self, shape: Shape, length: int) -> tuple[int, int]:
        return length, 0


class LatePrompt(Insertion, frozen=True):
    """P prompt vectors made from the hidden state and put before it, at one depth (LPT; BFT eq. 1-2).

    ``naive``: ``reshape(W2 relu(W1 h_0 + b1) + b2)``, h_0 the first token, W1 [m, D], W2 [P D, m]:
    D m + m + m P D + P D.
    ``appg``, ``mppg``: ``W2 relu(pool(W1 h + b1)) + b2``, the real tokens averaged or maximised into P slots:
    2 D m + m + D.
    ``table``: the same P vectors for every text: P D.
    """

    needs_reader: ClassVar[bool] = True

    kind: Literal["late_prompt"] = "late_prompt"
    tokens: Count = 5
    bottleneck: Count = 128
    generator: Literal["naive", "appg", "mppg", "table"] = "naive"
    dropout: Chance = 0.1

    @property
    def prompt(self) -> int:
        return self.tokens

    def parameters(self, shape: Shape) -> int:
        width, narrow, prompt = shape.hidden, self.bottleneck, self.tokens * shape.hidden
        if self.generator == "table":
            return prompt
        wide = prompt if self.generator == "naive" else width
        return (width * narrow + narrow) + (narrow * wide + wide)

    def multiplications_at(self, shape: Shape, length: int) -> int:
        if self.generator == "table":
            return 0
        if self.generator == "naive":
            return shape.hidden * self.bottleneck * (1 + self.tokens)
        return shape.hidden * self.bottleneck * (length + self.tokens)

    def entered(self, shape: Shape, length: int) -> tuple[int, int]:
        if self.generator == "table":
            return 0, 0
        return 1 if self.generator == "naive" else length, shape.hidden * self.bottleneck


class Prompt(Insertion, frozen=True):
    """P trained vectors before the word embeddings of every text (Lester et al. 2021): P E, E their width.

    They take the first P positions and the text the next ones, so P fewer tokens fit. They are at the input: frozen
    depth 0.
    """

    needs_reader: ClassVar[bool] = True
    printed_always: ClassVar[tuple[str, ...]] = ("tokens",)

    kind: Literal["prompt"] = "prompt"
    depth: Literal[0] = 0
    tokens: Count = 20

    @property
    def prompt(self) -> int:
        return self.tokens

    @property
    def positions(self) -> int:
        return self.tokens

    def parameters(self, shape: Shape) -> int:
        return self.tokens * shape.word

    def multiplications_at(self, shape: Shape, length: int) -> int:
        return 0


class Idpg(Insertion, frozen=True):
    """P prompt vectors at the input, made from the frozen model's hidden state of the whole text (S-IDPG-PHM; Wu 2022).

    ``reshape(H2 gelu(H1 M(x) + b1) + b2)``; M(x) is the last hidden state of the first token in a pass without the
    prompt. H1 [m, D] and H2 [P D, m] are sums of n Kronecker products A_i x B_i, A_i [n, n] (Zhang et al. 2021, PHM):
    ``2 n^3 + D m / n + m + m P D / n + P D``; ``n^3`` once when both share the A_i.

    roberta-large with n=16, m=256, P=5: 111,872, which with a 2-way output layer is the 114K of BFT's table 1; shared
    107,776, the 105K (times 1,024) of the IDPG paper.
    """

    needs_reader: ClassVar[bool] = True
    rereads: ClassVar[bool] = True
    printed_always: ClassVar[tuple[str, ...]] = ("tokens",)

    kind: Literal["idpg"] = "idpg"
    depth: Literal[0] = 0
    tokens: Count = 5
    bottleneck: Count = 256
    phm: Count = 16
    """The n of the product; with 1 it is a plain matrix (S-IDPG-DNN), up to one factor."""
    shared: bool = False
    """Whether both layers share the A_i: the paper's text says so, its code does not."""
    dropout: Chance = 0.1

    @property
    def prompt(self) -> int:
        return self.tokens

    def parameters(self, shape: Shape) -> int:
        width, narrow, prompt, n = shape.hidden, self.bottleneck, self.tokens * shape.hidden, self.phm
        if width % n or narrow % n:
            raise PlanError(
                f"{self}: phm={n} does not divide the hidden size {width} and the bottleneck {narrow}",
                "the matrices are cut into phm x phm tiles: take a power of two",
            )
        rules = n**3 * (1 if self.shared else 2)
        return rules + (width * narrow // n + narrow) + (narrow * prompt // n + prompt)

    def multiplications_at(self, shape: Shape, length: int) -> int:
        return shape.hidden * self.bottleneck * (1 + self.tokens)

    def entered(self, shape: Shape, length: int) -> tuple[int, int]:
        return 1, shape.hidden * self.bottleneck
