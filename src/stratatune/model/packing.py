"""Hold frozen linears of the top in 8 or 4 bits, as QLoRA holds a model's (Dettmers et al., 2023).

Every product unpacks its weight, once forward and once backward; trained parameters are fp32 as usual. The packing is
bitsandbytes': ``nf4`` with double quantisation (4.127 bits a weight), or ``int8`` by blocks. It is done from the
weights as stored, so that an adapter meets the same numbers wherever it is loaded.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from stratatune._compat import needs_extra
from stratatune.errors import PlanError
from stratatune.methods.dora import DoraLinear
from stratatune.model.attached import Attached
from stratatune.model.stored import StoredLinear

Pack = Literal["int8", "nf4"]


class PackedLinear(nn.Linear):
    """A linear whose weight is held as bytes, ``packed``, with the state that unpacks them."""

    kind: Pack
    packed: nn.Parameter
    state: Any

    @property
    def weight(self) -> nn.Parameter:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The weight's shape and dtype alone, which blocks may ask for: T5's convert their input to that dtype.

        It is on the meta device, so that whatever would compute with it fails, in place of computing something else.
        """
        empty = torch.empty(self.out_features, self.in_features, dtype=self.state.dtype, device="meta")
        return nn.Parameter(empty, requires_grad=False)

    def unpacked(self) -> Tensor:
        """The weight [out, in], in the dtype that it was stored in."""
        from bitsandbytes import functional

        # Module.to moves parameters and buffers alone: a model is packed on the CPU and then goes to a GPU.
        if self.state.absmax.device != self.packed.device:
            self.state.to(self.packed.device)
        unpack: Any = functional.dequantize_4bit if self.kind == "nf4" else functional.dequantize_blockwise
        return unpack(self.packed.data, self.state)

    def forward(self, input: Tensor) -> Tensor:  # torch's own name for it
        """[..., in] -> [..., out]."""
        return _Unpacked.apply(input, self, self.bias)  # pyright: ignore[reportReturnType]


class _Unpacked(torch.autograd.Function):
    """A linear that keeps nothing for the backward pass but the packed weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedLinear, bias: Tensor | None) -> Tensor:
        ctx.layer, ctx.given, ctx.bias = layer, x.dtype, None if bias is None else bias.dtype
        # Only the packed weight is kept for the backward pass: keeping this would hold all weights wide at once.
        weight = layer.unpacked()
        mixed = torch.is_autocast_enabled(x.device.type)
        return nn.functional.linear(x, weight if mixed else weight.to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        back = None
        if ctx.needs_input_grad[0]:
            # Unpacked once more, which costs time but no memory.
            back = (grad @ ctx.layer.unpacked().to(grad.dtype)).to(ctx.given)
        return back, None, grad.flatten(0, -2).sum(0).to(ctx.bias) if ctx.needs_input_grad[2] else None


def pack_top(attached: Attached, kind: Pack) -> None:
    """Pack the frozen linears of the blocks above the frozen depth, in place.

    Raises:
        PlanError: there are none, or a method reads their weights as they are.
        ResourceError: bitsandbytes is not installed.
    """
    linears = [module for block in attached.own_blocks() for module in block.modules() if _may_be_packed(module)]
    if not linears:
        raise PlanError(
            f"pack {kind}: the top has no frozen linear",
            "pack works with lora and other methods that leave a weight frozen",
        )
    # DoRA needs the norms of the weight itself, which packed bytes do not give.
    if any(isinstance(module, DoraLinear) for module in attached.backbone.blocks.modules()):
        raise PlanError(f"pack {kind}: dora reads the weights that it adapts", "use lora")
    with needs_extra("pack", f"pack {kind}"):
        from bitsandbytes import functional
    for linear in linears:
        weight: Any = linear.weight.data
        weight = weight.contiguous()
        if kind == "nf4":
            packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        else:
            packed, state = functional.quantize_blockwise(weight, blocksize=256)
        # In place, so that wrappers and hooks which hold the linear need no change.
        made: Any = linear
        del made.weight
        made.__class__ = PackedLinear
        made.packed = nn.Parameter(packed, requires_grad=False)
        made.kind, made.state = kind, state


def is_packed(attached: Attached) -> bool:
    """Whether the top was packed."""
    return any(isinstance(module, PackedLinear) for module in attached.backbone.blocks.modules())


def hidden_count(attached: Attached) -> int:
    """The number of weights of the packed linears beyond the values that hold them."""
    packed = (module for module in attached.backbone.blocks.modules() if isinstance(module, PackedLinear))
    return sum(one.in_features * one.out_features - one.packed.numel() for one in packed)


def _may_be_packed(module: nn.Module) -> bool:
    # The exact classes: a subclass may read its weight in another way.
    return type(module) in (nn.Linear, StoredLinear) and not module.weight.requires_grad  # pyright: ignore[reportAttributeAccessIssue]
