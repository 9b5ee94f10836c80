"""The sizes of a model, without the model: what every count and every cost is worked out from.

A shape comes from a config (built in, in a folder, or on the hub); no weights are read and no torch is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from stratatune.errors import ModelError, nearest
from stratatune.plan.architectures import Architecture, Config
from stratatune.plan.builtin import BUILTIN, builtin_config
from stratatune.plan.table import architecture_of

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
    distinct: int = 0
    """Sets of weights that the blocks share, as neighbours: ALBERT runs one set L times. 0: each block has its own."""
    embedding_width: int = 0
    """E, the width of a word's vector, where it is not D."""
    reused: tuple[str, ...] = ()
    """Roles that read something else too in a block's forward, not the hidden state alone."""
    unnamed: int = 0
    """Parameters of a block that no role names."""
    lacks: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Block number to the roles that this block, unlike the others, does not have."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that one block of this model has."""
        return (*self.linears, *self.norms)

    def part(self, role: str) -> Linear | Norm:
        """The linear or norm that plays ``role``."""
        return self.linears[role] if role in self.linears else self.norms[role]

    @property
    def word(self) -> int:
        """E, the width of a word's vector: D in most models."""
        return self.embedding_width or self.hidden

    @property
    def stacks(self) -> dict[str, range]:
        """The numbers of each stack's blocks: ``enc`` and ``dec``, or one stack without a name."""
        if self.decoder is None:
            return {"": range(self.blocks)}
        border = self.blocks - self.decoder.blocks
        return {"enc": range(border), "dec": range(border, self.blocks)}

    @property
    def border(self) -> int:
        """How many blocks the first stack has: L, in most models."""
        return len(next(iter(self.stacks.values())))

    def at(self, number: int) -> Shape:
        """The shape of the stack in which block ``number`` stands."""
        if self.decoder is None or number < self.blocks - self.decoder.blocks:
            return self
        return self.decoder

    @property
    def block_parameters(self) -> int:
        """Parameters of one block."""
        return self.unnamed + sum(self.part(role).weights + self.part(role).biases for role in self.roles)

    def owner(self, block: int) -> int:
        """The first of the blocks that share the weights of ``block``: itself, where blocks do not share."""
        if not self.distinct:
            return block
        weights = block * self.distinct // self.blocks
        return -(-weights * self.blocks // self.distinct)  # rounded up

    @property
    def owners(self) -> tuple[int, ...]:
        """The blocks that stand for a set of weights each: all of them, where blocks do not share."""
        return tuple(number for number in range(self.blocks) if self.owner(number) == number)

    def of_block(self, number: int) -> Shape:
        """This shape with the roles of block ``number`` alone."""
        missing = self.lacks.get(number, ())
        if not missing:
            return self.at(number)
        linears = {role: linear for role, linear in self.linears.items() if role not in missing}
        norms = {role: norm for role, norm in self.norms.items() if role not in missing}
        return replace(self, linears=linears, norms=norms)

    def head_parameters(self, objective: str) -> int:
        """Parameters of the pretrained head under ``objective``; a tied decoder is counted with the embeddings."""
        if objective not in LM_OBJECTIVES:
            return self.pooler
        tied = self.head_parts["decoder"] if self.decoder_tied else 0
        return sum(self.head_parts.values()) - tied - (self.final_norm if self.causal or self.decoder else 0)

    def parameters(self, objective: str) -> int:
        """Parameters of the whole model under ``objective``, without a task's new output layer."""
        blocks = sum(self.of_block(number).block_parameters for number in self.owners)
        trunk = self.embeddings + blocks + self.final_norm
        return trunk + self.head_parameters(objective)


def shape_of(model: str | Config) -> Shape:
    """The shape of a model.

    Args:
        model: a folder with config.json, a built-in name (``roberta-large``), a hub id (only its config.json is
            downloaded), or a config as a mapping.

    Raises:
        ModelError: there is no such model, or its architecture is not in the table.
    """
    if not isinstance(model, str):
        return _from_config(str(model.get("_name_or_path") or model.get("model_type", "")), model)
    return _from_config(model, config_of(model))


def config_of(model: str) -> Config:
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


def _read(path: Path) -> Config:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "it should be the JSON that transformers saves") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a JSON object", "it should be the JSON that transformers saves")
    return config


def _download(model: str) -> Config:
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


def _from_config(name: str, config: Config) -> Shape:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ModelError(
            f"the config of {name or 'this model'} names no model_type", "give the config.json that transformers saves"
        )
    row = architecture_of(model_type, config)
    reason = row.refuses(config)
    if reason:
        raise ModelError(f"{name or row.name} cannot be tuned here: {reason}", f"other {row.name} models can")
    if row.kind == "encoder-decoder":
        from stratatune.plan.stacks import encoder_decoder_shape

        return encoder_decoder_shape(name, row, config)
    sizes = _sizes(name, row, config)
    hidden = sizes["hidden"]
    return Shape(
        name=name,
        model_type=model_type,
        blocks=sizes["blocks"],
        hidden=hidden,
        ffn=sizes["ffn"],
        heads=sizes["heads"],
        vocab=sizes["vocab"],
        max_tokens=sizes["positions"] - row.position_offset,
        linears=_linears(row, sizes, config),
        norms={
            role: Norm(sizes["head_dim"] if role in HEAD_NORMS else hidden, row.has_bias(role, config))
            for role in row.roles
            if role.startswith("norm")
        },
        embeddings=_embeddings(row, sizes, config),
        head_parts=_head_parts(row, sizes, config),
        pooler=_pooler(row, sizes, config),
        decoder_tied=bool(config.get("tie_word_embeddings", row.tied)),
        final_norm=_final_norm(row, hidden, config),
        causal=row.causal,
        classifier_bias=row.classifier_bias,
        classifier_dense=hidden * hidden + hidden if row.classifier_dense else 0,
        distinct=sizes["distinct"],
        reused=row.reused,
        embedding_width=0 if sizes["embedding"] == hidden else sizes["embedding"],
        lacks=row.lacks,
    )


def _norm(row: Architecture, size: int, role: str, config: Config) -> int:
    """Parameters of a norm."""
    return 2 * size if row.has_bias(role, config) else size


def _final_norm(row: Architecture, hidden: int, config: Config) -> int:
    """Parameters of the norm behind the last block."""
    return _norm(row, hidden, "final_norm", config) if row.final_norm else 0


def _embeddings(row: Architecture, sizes: Mapping[str, int], config: Config) -> int:
    """Parameters of the embeddings and of what feeds the blocks beside them."""
    width = sizes["embedding"]
    tables = [name for name in row.embedding_tables if config.get(row.table_if.get(name, ""), True)]
    norm = _norm(row, width, "embeddings", config) if row.embedding_norm else 0
    return sum(sizes[table] for table in tables) * width + norm + sum(count(config) for count in row.beside.values())


def _head_parts(row: Architecture, sizes: Mapping[str, int], config: Config) -> dict[str, int]:
    """Parameters of the parts of the masked-LM head: dense D -> E, norm, decoder E -> V and its bias.

    A causal decoder's has the final norm and the decoder alone.
    """
    width, vocab = sizes["embedding"], sizes["vocab"]
    if row.causal:
        return {"dense": 0, "norm": _final_norm(row, sizes["hidden"], config), "bias": 0, "decoder": vocab * width}
    return {
        "dense": sizes["hidden"] * width + (width if row.has_bias("dense", config) else 0),
        "norm": _norm(row, width, "norm", config),
        "bias": vocab if row.has_bias("decoder", config) else 0,
        "decoder": vocab * width,
    }


def _pooler(row: Architecture, sizes: Mapping[str, int], config: Config) -> int:
    """Parameters of the pretrained pooler: dense D -> D and, in some models, a norm."""
    if not row.pooler:
        return 0
    hidden = sizes["hidden"]
    dense = hidden * hidden + (hidden if row.has_bias("pooler", config) else 0)
    return dense + (_norm(row, hidden, "norm", config) if row.pooler_norm else 0)


def _sizes(name: str, row: Architecture, config: Config) -> dict[str, int]:
    """The config's sizes under our names; raises ModelError that lists every one that is missing or not a count."""
    wanted = {ours: theirs for ours, theirs in vars(row.fields).items() if theirs is not None}
    optional = {"kv_heads", "head_dim", "distinct", *(["ffn"] if row.ffn_multiple else [])}
    sizes = {ours: config.get(theirs) for ours, theirs in wanted.items()}
    wrong = [
        wanted[k]
        for k, v in sizes.items()
        if not (isinstance(v, int) and (v > 0 or (k == "types" and v == 0))) and not (k in optional and v is None)
    ]
    if wrong:
        raise ModelError(
            f"the config of {name or row.name} lacks {', '.join(wrong)}", f"a {row.name} config holds them as counts"
        )
    found = {ours: value for ours, value in sizes.items() if isinstance(value, int)}
    found.setdefault("ffn", row.ffn_multiple * found["hidden"])
    found.setdefault("kv_heads", found["heads"])
    found.setdefault("head_dim", found["hidden"] // found["heads"])
    found.setdefault("embedding", found["hidden"])
    found.setdefault("distinct", 1 if row.fields.distinct else 0)
    return found


def _linears(row: Architecture, sizes: Mapping[str, int], config: Config) -> dict[str, Linear]:
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
