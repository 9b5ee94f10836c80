"""The sizes of a model, without the model: what every count and every cost is worked out from.

A shape comes from a config (built in, in a folder, or on the hub); no weights are read and no torch is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stratatune.errors import ModelError, nearest
from stratatune.plan.architectures import Architecture, architecture_of
from stratatune.plan.builtin import BUILTIN, builtin_config

HEAD_NORMS = ("norm_q", "norm_k")
"""Norms over the features of one head."""
LM_OBJECTIVES = ("mlm", "causal", "completion", "seq2seq")
"""Objectives that read the pretrained language-model head; the others wear a classification head."""


@dataclass(frozen=True)
class Linear:
    """A linear layer: ``inputs -> outputs``."""

    inputs: int
    outputs: int
    bias: bool = True

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs

    @property
    def biases(self) -> int:
        return self.outputs if self.bias else 0


@dataclass(frozen=True)
class Norm:
    """A layer norm (``bias=False``: an RMS norm) over ``size`` features."""

    size: int
    bias: bool = True

    @property
    def weights(self) -> int:
        return self.size

    @property
    def biases(self) -> int:
        return self.size if self.bias else 0


@dataclass(frozen=True)
class Shape:
    """The sizes of one model. Counts are parameters; ``blocks`` is L, ``hidden`` is D, ``vocab`` is V."""

    name: str
    model_type: str
    blocks: int
    hidden: int
    ffn: int
    heads: int
    vocab: int
    max_tokens: int
    linears: Mapping[str, Linear]
    """Role to linear layer, of one block."""
    norms: Mapping[str, Norm]
    """Role to norm, of one block."""
    embeddings: int
    head_parts: Mapping[str, int]
    """Parts of the masked-LM head: dense, norm, bias, decoder (V*D, the word embeddings themselves when tied)."""
    pooler: int
    """Pooler of the classification model; 0 where it has none."""
    decoder_tied: bool
    final_norm: int = 0
    """The norm behind the last block; the head's ``norm`` where the blocks end without one of their own."""
    causal: bool = False
    """Whether a token sees only what stands before it."""
    decoder: Shape | None = None
    """The decoder of an encoder-decoder, as a shape; ``linears`` and ``norms`` are then the encoder's.

    ``blocks`` then counts both stacks: the encoder's blocks come first, the decoder's go on from there.
    """
    classifier_bias: bool = True
    classifier_dense: int = 0
    """A new dense layer that the classification head brings, beside its output layer; 0 where it has none."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that one block of this model has."""
        return (*self.linears, *self.norms)

    def part(self, role: str) -> Linear | Norm:
        """The linear or norm that plays ``role``."""
        return self.linears[role] if role in self.linears else self.norms[role]

    @property
    def stacks(self) -> dict[str, range]:
        """The numbers of each stack's blocks: ``enc`` and ``dec``, or one stack without a name."""
        if self.decoder is None:
            return {"": range(self.blocks)}
        border = self.blocks - self.decoder.blocks
        return {"enc": range(border), "dec": range(border, self.blocks)}

    def at(self, number: int) -> Shape:
        """The shape whose roles block ``number`` has."""
        if self.decoder is None or number < self.blocks - self.decoder.blocks:
            return self
        return self.decoder

    @property
    def block_parameters(self) -> int:
        """Parameters of one block."""
        return sum(self.part(role).weights + self.part(role).biases for role in self.roles)

    def head_parameters(self, objective: str) -> int:
        """Parameters of the pretrained head under ``objective``; a tied decoder is counted with the embeddings."""
        if objective not in LM_OBJECTIVES:
            return self.pooler
        tied = self.head_parts["decoder"] if self.decoder_tied else 0
        return sum(self.head_parts.values()) - tied - (self.final_norm if self.causal or self.decoder else 0)

    def parameters(self, objective: str) -> int:
        """Parameters of the whole model under ``objective``, without a task's new output layer."""
        blocks = sum(self.at(number).block_parameters for number in range(self.blocks))
        trunk = self.embeddings + blocks + self.final_norm
        return trunk + self.head_parameters(objective)


def shape_of(model: str | Mapping[str, object]) -> Shape:
    """The shape of a model.

    Args:
        model: a folder with config.json, a built-in name (``roberta-large``), a hub id (only its config.json is
            downloaded), or a config as a mapping.

    Raises:
        ModelError: there is no such model, or its architecture is not in the table.
    """
    if not isinstance(model, str):
        return _from_config(str(model.get("_name_or_path") or model.get("model_type", "")), model)
    return _from_config(model, _config(model))


def _config(model: str) -> Mapping[str, object]:
    """The config that ``model`` names: a folder first, as transformers has it, then built in, then the hub."""
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file():
        return _read(folder / "config.json")
    built_in = builtin_config(model)
    if built_in is not None:
        return built_in
    if folder.is_dir():
        raise ModelError(f"folder {model} holds no config.json", "name the folder of a saved transformers model")
    return _download(model)


def _read(path: Path) -> Mapping[str, object]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "it should be the JSON that transformers saves") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a JSON object", "it should be the JSON that transformers saves")
    return config


def _download(model: str) -> Mapping[str, object]:
    """config.json of a hub repository (or of the local hub cache, when offline)."""
    near = nearest(model, BUILTIN)
    hint = f"did you mean {near!r}? " if near else ""
    hint += f"give a folder with config.json, a hub id, or one of: {', '.join(BUILTIN)}"
    try:
        from huggingface_hub import hf_hub_download

        path = hf_hub_download(model, "config.json")
    except ImportError as error:
        raise ModelError(f"model {model!r} is not here, and huggingface_hub is not installed", hint) from error
    except (OSError, ValueError) as error:  # not found, no access, offline, not a legal id: the hub's errors are these
        raise ModelError(
            f"model {model!r} is neither here nor reachable on the hub ({type(error).__name__})", hint
        ) from error
    return _read(Path(path))


def _from_config(name: str, config: Mapping[str, object]) -> Shape:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ModelError(
            f"the config of {name or 'this model'} names no model_type", "give the config.json that transformers saves"
        )
    row = architecture_of(model_type, config)
    if row.kind == "encoder-decoder":
        from stratatune.plan.seq2seq import encoder_decoder_shape

        return encoder_decoder_shape(name, row, config)
    sizes = _sizes(name, row, config)
    hidden, vocab = sizes["hidden"], sizes["vocab"]
    tied = bool(config.get("tie_word_embeddings", row.tied))
    norm = hidden * (1 + row.has_bias("norm_attn", config))
    final_norm = norm if row.final_norm else 0
    return Shape(
        name=name,
        model_type=model_type,
        blocks=sizes["blocks"],
        hidden=hidden,
        ffn=sizes["ffn"],
        heads=sizes["heads"],
        vocab=vocab,
        max_tokens=sizes["positions"] - row.position_offset,
        linears=_linears(row, sizes, config),
        norms={
            role: Norm(sizes["head_dim"] if role in HEAD_NORMS else hidden, row.has_bias(role, config))
            for role in row.roles
            if role.startswith("norm")
        },
        embeddings=sum(sizes[table] for table in row.embedding_tables) * hidden + (norm if row.embedding_norm else 0),
        head_parts={"dense": 0, "norm": final_norm, "bias": 0, "decoder": vocab * hidden}
        if row.causal
        else {"dense": hidden * hidden + hidden, "norm": norm, "bias": vocab, "decoder": vocab * hidden},
        pooler=hidden * hidden + hidden if row.pooler else 0,
        decoder_tied=tied,
        final_norm=final_norm,
        causal=row.causal,
        classifier_bias=row.classifier_bias,
        classifier_dense=hidden * hidden + hidden if row.classifier_dense else 0,
    )


def _sizes(name: str, row: Architecture, config: Mapping[str, object]) -> dict[str, int]:
    """The config's sizes under our names; raises ModelError that lists every one that is missing or not a count."""
    wanted = {ours: theirs for ours, theirs in vars(row.fields).items() if theirs is not None}
    optional = {"kv_heads", "head_dim", *(["ffn"] if row.ffn_multiple else [])}
    sizes = {ours: config.get(theirs) for ours, theirs in wanted.items()}
    wrong = [
        wanted[k] for k, v in sizes.items() if not (isinstance(v, int) and v > 0) and not (k in optional and v is None)
    ]
    if wrong:
        raise ModelError(
            f"the config of {name or row.name} lacks {', '.join(wrong)}", f"a {row.name} config holds them as counts"
        )
    found = {ours: value for ours, value in sizes.items() if isinstance(value, int)}
    found.setdefault("ffn", row.ffn_multiple * found["hidden"])
    found.setdefault("kv_heads", found["heads"])
    found.setdefault("head_dim", found["hidden"] // found["heads"])
    return found


def _linears(row: Architecture, sizes: Mapping[str, int], config: Mapping[str, object]) -> dict[str, Linear]:
    """Every linear role of one block, from the sizes of attention and of the feed-forward part."""
    hidden, ffn, width = sizes["hidden"], sizes["ffn"], sizes["heads"] * sizes["head_dim"]
    keys = sizes["kv_heads"] * sizes["head_dim"]
    ends = {
        "q": (hidden, width),
        "k": (hidden, keys),
        "v": (hidden, keys),
        "o": (width, hidden),
        "up": (hidden, ffn),
        "gate": (hidden, ffn),
        "down": (ffn, hidden),
    }
    return {role: Linear(*ends[role], row.has_bias(role, config)) for role in ends if role in row.roles}
