"""A live Hugging Face model seen through its row of the backbone table.

Everything that depends on how a family of models is built is asked here: where the blocks are, which module plays which
role, how a mask reaches a block, how the head turns one hidden state into logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
import xxhash
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask

from stratatune._compat import attention_of
from stratatune.errors import ModelError
from stratatune.methods.site import Site
from stratatune.model.fused import roles_now
from stratatune.plan.architectures import Architecture, architecture_of
from stratatune.plan.shape import shape_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Output = Literal["mlm", "causal", "seq2seq", "classification", "none"]
_ARITHMETIC = ("model_type", "hidden_act", "layer_norm_eps", "num_attention_heads", "position_embedding_type")
_DECODER_ARITHMETIC = (
    *("activation_function", "attn_logit_softcapping", "head_dim", "hidden_activation", "layer_norm_epsilon"),
    *("layer_types", "n_head", "num_key_value_heads", "query_pre_attn_scalar", "rms_norm_eps", "rope_parameters"),
    *(
        "d_kv",
        "num_heads",
        "feed_forward_proj",
        "encoder_attention_heads",
        "decoder_attention_heads",
        "scale_embedding",
    ),
    *("relative_attention_num_buckets", "relative_attention_max_distance"),
    *("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "sliding_window", "reorder_and_upcast_attn"),
)


class Backbone:
    """A live model and its row.

    Args:
        model: a Hugging Face model, with or without a head.

    Raises:
        ModelError: the table has no row for this type of model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.row: Architecture = architecture_of(model.config.model_type, model.config.to_dict())
        self.shape = shape_of(model.config.to_dict())
        self.base: nn.Module = model.base_model
        self.embeddings = self._embeddings()
        blocks = self.base.get_submodule(self.row.blocks)
        if not isinstance(blocks, nn.ModuleList):
            raise ModelError(
                f"{type(model).__name__}: {self.row.blocks} is no list of blocks", "the backbone table's row is wrong"
            )
        self.blocks = nn.ModuleList([*blocks, *self._decoder_blocks()])
        self.output = self._output()
        self._held_decoder: Tensor | None = None

    def _embeddings(self) -> nn.Module:
        parts = self.embedding_modules
        return parts[0] if len(parts) == 1 else nn.ModuleList(parts)

    def _decoder_blocks(self) -> list[nn.Module]:
        """The second stack of an encoder-decoder, whose blocks are numbered on from the first."""
        path = self.row.decoder_blocks
        return [] if path is None else list(self.base.get_submodule(path).children())

    @property
    def encoder_blocks(self) -> int:
        """How many of the blocks are the encoder's, in an encoder-decoder."""
        return len(self.shape.stacks.get("enc", range(len(self.blocks))))

    @property
    def embedding_modules(self) -> list[nn.Module]:
        """The modules of the embeddings; one, unless no single one holds them all."""
        return [self.base.get_submodule(path) for path in (self.row.embeddings, *self.row.more_embeddings)]

    def _output(self) -> Output:
        names = dict(self.model.named_modules())
        if self.row.kind != "encoder" and self.row.mlm_head["decoder"] in names:
            return "causal" if self.row.causal else "seq2seq"
        if self.row.mlm_head.get("dense") in names:
            return "mlm"
        return "classification" if self.row.classifier in names else "none"

    def fingerprint(self) -> str:
        """Hash of what the encoder computes: type, settings that change its arithmetic, embeddings and blocks."""
        settings = {name: getattr(self.model.config, name, None) for name in _ARITHMETIC}
        if self.row.kind != "encoder":
            settings |= {name: getattr(self.model.config, name, None) for name in _DECODER_ARITHMETIC}
        digest = xxhash.xxh3_128(str(settings).encode())
        for module in (self.embeddings, *self.blocks):
            for name, tensor in module.state_dict().items():
                _add(digest, name, tensor)
        return digest.hexdigest()

    def head_fingerprint(self) -> str:
        """Hash of the frozen parameters outside the encoder: a head that is read, but not saved with what trained."""
        inside = {id(parameter) for module in (self.embeddings, self.blocks) for parameter in module.parameters()}
        digest = xxhash.xxh3_128()
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad and id(parameter) not in inside:
                _add(digest, name, parameter)
        return digest.hexdigest()

    def site(self, number: int) -> Site:
        """Block ``number`` and its roles."""
        if number >= self.encoder_blocks:
            return Site(self.blocks[number], self.row.decoder_roles, f"decoder block {number - self.encoder_blocks}")
        return Site(self.blocks[number], roles_now(self.blocks[number], self.row), f"block {number}")

    @property
    def mlm_parts(self) -> dict[str, str]:
        """Part of the MLM head -> path of its module; the bias [V] is its decoder's."""
        return {**self.row.mlm_head, "bias": self.row.mlm_head["decoder"]}

    def _mlm_modules(self) -> dict[str, Any]:
        """The live modules of the MLM head by part."""
        return {name: self.model.get_submodule(path) for name, path in self.mlm_parts.items()}

    def head_site(self) -> Site:
        """The head's parts that this model has: those of the MLM head, and the pooler."""
        pooler = {} if self.row.pooler is None else {"pooler": f"{self.row.base}.{self.row.pooler}"}
        if self.row.kind != "encoder":
            names = ("norm",) if self.output == "classification" else ("norm", "decoder")
            return Site(self.model, {n: self.row.mlm_head[n] for n in names if n in self.row.mlm_head}, "the head")
        parts = {"mlm": self.mlm_parts, "classification": pooler, "none": {}}[self.output]
        return Site(self.model, parts, "the head")

    def output_layer(self) -> list[nn.Parameter]:
        """The parameters of the task's own output layer, which no pretrained model brings; empty for ``mlm``."""
        if self.output != "classification":
            return []
        return list(self.model.get_submodule(self.row.classifier).parameters())

    def in_encoder(self, parameter: nn.Parameter) -> bool:
        """Whether ``parameter`` belongs to the embeddings or a block."""
        return any(parameter is own for module in (self.embeddings, self.blocks) for own in module.parameters())

    @torch.no_grad()
    def reset_mlm_head(self) -> None:
        """Make the MLM head read the hidden state as it is: dense = identity, norm and bias as new, decoder tied."""
        part = self._mlm_modules()
        nn.init.eye_(part["dense"].weight)
        for vector in (part["dense"].bias, part["norm"].bias, part["decoder"].bias):
            nn.init.zeros_(vector)
        nn.init.ones_(part["norm"].weight)

    def attention_mask(self, hidden: Tensor, mask: Tensor) -> Tensor | None:
        """The mask as the blocks take it: ``hidden`` [B, T, D], ``mask`` [B, T] bool -> [B, 1, T, T] or None."""
        return create_bidirectional_mask(config=self.model.config, inputs_embeds=hidden, attention_mask=mask)

    def _block(self, number: int) -> Any:
        """A live block; how its own code names its parts, no annotation knows."""
        return self.blocks[number]

    def run_block(self, number: int, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """One block on [B, T, D].

        Its ``forward`` is called, not the module: hooks on a block serve callers of the whole model
        (``model/hooks.py``), and here the insertions have been made already.
        """
        return self._block(number).forward(hidden, attention_mask)

    def run_block_at(self, number: int, hidden: Tensor, attention_mask: Tensor | None, read: Tensor) -> Tensor:
        """One block, only the position ``read`` [B] of whose result is wanted: [B, T, D] -> [B, 1, D].

        Keys and values come from every token; query, output and FFN are computed for one. Its own modules are called,
        so whatever a treatment put into them takes part.
        """
        block = self._block(number)
        row = torch.arange(len(read), device=hidden.device)
        here = hidden[row, read].unsqueeze(1)  # [B, 1, D]
        attention = block.attention.self
        heads = (len(read), -1, attention.num_attention_heads, attention.attention_head_size)
        query, key, value = (
            project(x).view(heads).transpose(1, 2)
            for project, x in ((attention.query, here), (attention.key, hidden), (attention.value, hidden))
        )
        if attention_mask is not None:
            attention_mask = attention_mask.expand(len(read), *attention_mask.shape[1:])[row, :, read].unsqueeze(2)
        dropout = attention.dropout.p if attention.training else 0.0
        attend = attention_of(attention)
        context, _ = attend(attention, query, key, value, attention_mask, dropout=dropout, scaling=attention.scaling)
        attended = block.attention.output(context.reshape(here.shape), here)
        return block.output(block.intermediate(attended), attended)

    def head(self, hidden: Tensor, words: Tensor | None) -> Tensor:
        """``hidden`` [B, 1, D] -> [B, 1, V], or [B, 1, C] for label words [C] or classes."""
        if self.output == "mlm":
            return self._word_logits(hidden, words)
        if self.output == "classification":
            return self._class_logits(hidden).unsqueeze(1)
        raise ModelError(
            f"{type(self.model).__name__} has no head", "load it with a masked-LM or a classification head"
        )

    def _word_logits(self, hidden: Tensor, words: Tensor | None) -> Tensor:
        part = self._mlm_modules()
        activation = ACT2FN[self.row.mlm_activation or self.model.config.hidden_act]
        hidden = part["norm"](activation(part["dense"](hidden)))
        weight = part["decoder"].weight if self._held_decoder is None else self._held_decoder  # [V, D]
        bias = part["decoder"].bias
        if words is not None:
            weight, bias = weight[words], bias[words]
        return nn.functional.linear(hidden, weight, bias)

    def head_weights(self) -> list[nn.Module | nn.Parameter | Tensor]:
        """What the head computes with, a decoder held in a lower precision in place of the one it was made from."""
        if self.output == "classification":
            pooler = [] if self.row.pooler is None else [self.base.get_submodule(self.row.pooler)]
            return [*pooler, self.model.get_submodule(self.row.classifier)]
        if self.output == "none":
            return []
        part = {name: self.model.get_submodule(path) for name, path in self.row.mlm_head.items()}
        decoder = part["decoder"].weight if self._held_decoder is None else self._held_decoder
        return [part["dense"], part["norm"], part["decoder"].bias, decoder]

    def untie_decoder(self) -> str:
        """Give the decoder a copy of the embeddings that it shares, so that it can train apart; says so in one line."""
        decoder: Any = self.model.get_submodule(self.row.mlm_head["decoder"])
        decoder.weight = nn.Parameter(decoder.weight.detach().clone(), requires_grad=False)
        self.model.config.tie_word_embeddings = False
        count = decoder.weight.numel()
        return f"head(untie): the decoder is a copy of its own now, {count:,} parameters more than the base model has"

    def hold_decoder(self, dtype: torch.dtype) -> None:
        """Keep a copy of a frozen MLM decoder in ``dtype`` for the head to read; the embeddings it is tied to stay."""
        if self.output == "mlm":
            weight: Tensor = self._mlm_modules()["decoder"].weight
            self._held_decoder = None if weight.requires_grad else weight.detach().to(dtype)

    def _class_logits(self, hidden: Tensor) -> Tensor:
        model: Any = self.model
        classifier = model.get_submodule(self.row.classifier)
        if self.row.pooler is None:
            return classifier(hidden)  # the classifier reads the first position itself
        return classifier(model.dropout(self.base.get_submodule(self.row.pooler)(hidden)))


def _add(digest: xxhash.xxh3_128, name: str, tensor: Tensor) -> None:
    digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
    digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
