"""Loading a base model and its tokenizer from a folder or a hub, with the head that an objective reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoTokenizer

from stratatune.errors import ModelError, StratatuneError
from stratatune.model.backbone import Backbone
from stratatune.model.heads.head import Head
from stratatune.model.heads.registry import HEADS, head_named
from stratatune.outside import path_exists
from stratatune.shapes.architectures import Architecture
from stratatune.shapes.configs import config_of
from stratatune.shapes.sizes import shape_of
from stratatune.shapes.table import architecture_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_OWN_HEAD = (
    "the checkpoint's own masked-LM head is read, by {}; where a model was trained to spot replaced tokens "
    "(DeBERTa-v3), that head knows little: objective classification needs none"
)
_PICKLED = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.bin")


@dataclass
class Base:
    """A pretrained model, ready for a plan.

    Attributes:
        model: in eval mode, fp32, with the head asked for.
        tokenizer: its own.
        new: names of the parameters that the checkpoint did not bring (apart from the task's output layer).
        notices: one line each on what the user should know.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    new: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def load_base(
    name: str,
    head: str,
    *,
    num_labels: int = 2,
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
    attention: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Base:
    """Load ``name`` (a folder or a hub id) with a head of ``model/heads/``, and its tokenizer unless that is given.

    A head that the checkpoint does not bring is made with ``seed``: a masked-LM head as an identity on the tied
    embeddings, with a notice; a pooler or a classifier as the model's own code makes it.

    Raises:
        ModelError: no such model or head, no row for its family, a head that its family does not wear, or a model that
            cannot be loaded.
    """
    config = config_of(name)
    shape_of({**config, "_name_or_path": name})  # the family is known and its sizes are there, or one line says why
    row, worn = architecture_of(str(config["model_type"]), config), head_named(head)
    _check_head(row, worn)
    _check_weights(Path(name))
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    # Weights that are pickled are never read: pickle can run code.
    settings: dict[str, Any] = {
        "use_safetensors": True,
        "dtype": torch.float32,
        "attn_implementation": attention or attention_for_training(),
        **options,
        **worn.settings(num_labels),
    }
    loader: Any = getattr(transformers, worn.auto)
    notices: list[str] = []
    with _told(name), _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, info = loader.from_pretrained(name, output_loading_info=True, **settings)
        own = worn.own_setting(row, info["unexpected_keys"])
        if own:
            model, info = loader.from_pretrained(name, output_loading_info=True, **settings, **own)
            notices = [_OWN_HEAD.format(", ".join(f"{field}={value}" for field, value in own.items()))]
    base = Base(model.eval(), tokenizer or load_tokenizer(name, **options), notices=notices)
    backbone = Backbone(base.model)
    backbone.family.prepare(base.tokenizer)
    _settle_new_parameters(base, backbone, set(info["missing_keys"]))
    return base


def load_tokenizer(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of ``name`` (a folder or a hub id).

    Raises:
        ModelError: it brings none.
    """
    with _told(name), _quiet():
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)


def _check_head(row: Architecture, head: type[Head]) -> None:
    """Refuse a head that a family does not wear."""
    if row.family in head.families:
        return
    worn = [one.name for one in HEADS.values() if row.family in one.families]
    article = "an" if row.family[0] in "aeiou" else "a"
    raise ModelError(
        f"head {head.name}: {row.name} is {article} {row.family}, which has none", f"its heads: {', '.join(worn)}"
    )


def attention_for_training() -> str | None:
    """The attention to ask for when the user has no wish; None: what transformers chooses.

    On a CPU torch's fused attention has no dropout: it falls back to one that computes and saves in fp32. The model's
    own eager attention stays in the precision of the computation (7 % of a step of RoBERTa-large's top in bf16).
    """
    return None if torch.cuda.is_available() or torch.backends.mps.is_available() else "eager"


def _check_weights(folder: Path) -> None:
    """Refuses a folder that holds pickled weights only, before the library says so in words of its own."""
    if not path_exists(folder / "config.json") or any(folder.glob("*.safetensors")):
        return
    pickled = [path.name for pattern in _PICKLED for path in sorted(folder.glob(pattern))]
    if pickled:
        raise ModelError(
            f"{folder} holds pickled weights ({pickled[0]}), which can run code and are not read",
            "save them once as safetensors: AutoModel.from_pretrained(FOLDER).save_pretrained(NEW)",
        )


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn the libraries' many ways of failing to load into one line."""
    try:
        yield
    except (StratatuneError, MemoryError):
        raise
    except Exception as error:  # whatever transformers raises here is about this folder, or this id
        kind = "the folder" if Path(name).is_dir() else "the hub id"
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"cannot load a model from {kind} {name!r}: {line}",
            "give a folder with config.json, weights and tokenizer, or a hub id",
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' load report and progress bars off the terminal; our notices say what matters."""
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def _settle_new_parameters(base: Base, backbone: Backbone, missing: set[str]) -> None:
    """Decide what happens to parameters that the checkpoint lacks: they train, or the head is built anew."""
    named = dict(base.model.named_parameters())
    own = {id(parameter) for parameter in backbone.output_layer()}
    missing = {name for name in missing if name in named and id(named[name]) not in own}
    encoder = sorted(name for name in missing if backbone.in_encoder(named[name]))
    if encoder:
        raise ModelError(
            f"the checkpoint of {base.model.config._name_or_path!r} lacks {len(encoder)} weights of the encoder, "
            f"such as {encoder[0]}",
            "it was saved for another architecture",
        )
    built = backbone.head.build(missing)
    if built:
        base.notices.append(built)
    elif missing:
        base.new = sorted(missing)
        base.notices.append(f"new in this model, so they train: {', '.join(base.new)}")
