"""Hold frozen linears of the top in 8 or 4 bits, as QLoRA holds a model's (Dettmers et al., 2023).

Every product unpacks its weight, once forward and once backward; trained parameters are fp32 as usual. The packing is
bitsandbytes': ``nf4`` with double quantisation (4.127 bits a weight), or ``int8`` by blocks. It is done from the
weights as stored, so that an adapter meets the same numbers wherever it is loaded.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stratatune._compat import needs_extra, quieted
from stratatune.errors import PlanError
from stratatune.methods.dora import DoraLinear
from stratatune.methods.experts import MATRICES, holds_experts, of_experts
from stratatune.model.attached import Attached
from stratatune.model.stored import StoredExperts, StoredLinear

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


class PackedExperts:
    """Mixed into the class of a module that holds all experts of a block: each matrix of each expert is packed."""

    packed: nn.ModuleDict

    def __reduce_ex__(self, protocol: Any) -> Any:
        # pickle looks a class up by its name, under which it finds the model's own.
        return _blank, (type(self).__bases__[1],), vars(self)

    def through(self, name: str, number: int, x: Tensor) -> Tensor:
        """``x`` [n, in] through a matrix of an expert -> [n, out]."""
        linears: Any = self.packed[name]
        return linears[number](x)

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """``hidden`` [S, D], the K experts ``chosen`` for each token and their ``weights`` [S, K] -> [S, D]."""
        return of_experts(self, hidden, chosen, weights, self.through)


def _blank(cls: type) -> Any:
    """Empty experts over ``cls``, to be filled as a pickle is read."""
    return object.__new__(_packed_of(cls))


@functools.cache
def _packed_of(cls: type) -> type:
    return type(cls.__name__, (PackedExperts, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})


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
    """Pack the frozen linears and experts of the blocks above the frozen depth, in place.

    Raises:
        PlanError: there are none, or a method reads their weights as they are.
        ResourceError: bitsandbytes is not installed.
    """
    inside = [module for block in attached.own_blocks() for module in block.modules()]
    linears, mixtures = list(filter(_may_be_packed, inside)), list(filter(_are_frozen_experts, inside))
    if not linears and not mixtures:
        raise PlanError(
            f"pack {kind}: the top has no frozen linear",
            "pack works with lora and other methods that leave a weight frozen",
        )
    # DoRA needs the norms of the weight itself, which packed bytes do not give.
    if any(isinstance(module, DoraLinear) for module in attached.backbone.blocks.modules()):
        raise PlanError(f"pack {kind}: dora reads the weights that it adapts", "use lora")
    with needs_extra("pack", f"pack {kind}"), quieted("bitsandbytes"):
        import bitsandbytes  # noqa: F401 - before anything is changed
    # In place, so that wrappers and hooks which hold a module need no change.
    for linear in linears:
        weight: Any = linear.weight
        _pack(linear, weight.data, kind)
    for experts in mixtures:
        _pack_experts(experts, kind)


def _pack(linear: Any, weight: Tensor, kind: Pack) -> None:
    """Turn a linear into one that holds ``weight`` [out, in] packed."""
    from bitsandbytes import functional

    given: Any = weight.contiguous()
    if kind == "nf4":
        packed, state = functional.quantize_4bit(given, quant_type="nf4", compress_statistics=True)
    else:
        packed, state = functional.quantize_blockwise(given, blocksize=256)
    del linear.weight
    linear.__class__ = PackedLinear
    linear.packed = nn.Parameter(packed, requires_grad=False)
    linear.kind, linear.state = kind, state


def _packed(weight: Tensor, kind: Pack) -> nn.Linear:
    """A linear without a bias that holds ``weight`` [out, in] packed."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    _pack(made, weight, kind)
    return made


def _pack_experts(experts: Any, kind: Pack) -> None:
    """Put a packed linear for each matrix of each expert in the place of the tensors that hold them all."""
    made = nn.ModuleDict()
    for name in MATRICES:
        whole = getattr(experts, name).data
        made[name] = nn.ModuleList(
            _packed(weight, kind) for weight in (whole.transpose(1, 2) if experts.is_transposed else whole)
        )
        delattr(experts, name)
    own = type(experts)
    experts.__class__ = _packed_of(own.__bases__[1] if issubclass(own, StoredExperts) else own)
    experts.packed = made


def is_packed(attached: Attached) -> bool:
    """Whether the top was packed."""
    return any(isinstance(module, PackedLinear) for module in attached.backbone.blocks.modules())


def hidden_count(attached: Attached) -> int:
    """The number of weights of the packed linears beyond the values that hold them."""
    packed = (module for module in attached.backbone.blocks.modules() if isinstance(module, PackedLinear))
    return sum(one.in_features * one.out_features - one.packed.numel() for one in packed)


def _are_frozen_experts(module: nn.Module) -> bool:
    return holds_experts(module) and not any(one.requires_grad for one in module.parameters())


def _may_be_packed(module: nn.Module) -> bool:
    # The exact classes: a subclass may read its weight in another way.
    return type(module) in (nn.Linear, StoredLinear) and not module.weight.requires_grad  # pyright: ignore[reportAttributeAccessIssue]
