"""Loading a base model and its tokenizer from a folder or a hub, with the head that an objective needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.models.auto import modeling_auto as auto

from stratatune._compat import mark_as_loaded
from stratatune.errors import ModelError, StratatuneError
from stratatune.model.backbone import Backbone
from stratatune.model.loading import load_model
from stratatune.model.tokenizers import check_rows, check_words
from stratatune.outside import path_exists
from stratatune.plan import architecture_of, shape_of
from stratatune.shapes.shape import LM_OBJECTIVES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_OWN_HEAD = (
    "the checkpoint's own masked-LM head is read, by {}; where a model was trained to spot replaced tokens "
    "(DeBERTa-v3), that head knows little: objective classification needs none"
)
_PICKLED = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.bin")
HeadName = Literal["mlm", "causal", "seq2seq", "classification"]


@dataclass
class Base:
    """A pretrained model, ready for a plan.

    Attributes:
        model: in eval mode, with the head of the objective; it computes in fp32, its frozen weights are as stored.
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
    head: HeadName,
    *,
    num_labels: int = 2,
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
    attention: str | None = None,
    dtype: str = "float32",
    tokenizer: PreTrainedTokenizerBase | None = None,
    texts: bool = True,
) -> Base:
    """Load ``name`` (a folder or a hub id) with a head, and its tokenizer unless that is given.

    A head that the checkpoint does not bring is made with ``seed``: an MLM head as an identity on the tied
    embeddings, with a notice; a pooler or a classifier as the model's own code makes it. So is an output layer whose
    number of classes is another one than the checkpoint's. ``texts``: whether it must have a tokenizer; without, the
    tokenizer is None where there is none.

    Raises:
        ModelError: no such model, no row for its family, it cannot be loaded, or its tokenizer does not belong to it.
    """
    # The family is known, or one clear line says what is; costs only the config.
    shape = shape_of(name, revision)
    _check_weights(Path(name))
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    # Weights that are pickled are never read: pickle can run code.
    settings = {
        "use_safetensors": True,
        "dtype": getattr(torch, dtype),
        "attn_implementation": attention or attention_for_training(),
        **options,
    }
    causal, two_stacks = shape.causal, shape.decoder is not None
    _check_head(head, causal=causal, two_stacks=two_stacks)
    if head not in LM_OBJECTIVES:
        settings["ignore_mismatched_sizes"] = True  # which are looked at below
        settings["num_labels"] = num_labels
        settings["problem_type"] = "regression" if num_labels == 1 else "single_label_classification"
    language_model: Any = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    if two_stacks:
        language_model = AutoModelForSeq2SeqLM
    loader: Any = language_model if head in LM_OBJECTIVES else AutoModelForSequenceClassification
    notices: list[str] = []
    with _told(name), _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, info = load_model(loader, name, settings)
        own = _own_head(model, info["unexpected_keys"]) if head == "mlm" else {}
        if own:
            model, info = load_model(loader, name, {**settings, **own})
            notices = [_OWN_HEAD.format(", ".join(f"{field}={value}" for field, value in own.items()))]
    tokenizer = tokenizer or _tokenizer(name, texts, options)
    base = Base(model.eval(), tokenizer, notices=notices)  # pyright: ignore[reportArgumentType]
    if tokenizer is not None:
        check_rows(tokenizer, model.get_input_embeddings().weight.shape[0], name)
    if causal and tokenizer is not None:
        _settle_padding(base)
    other = _other_sizes(base, info["mismatched_keys"])
    _settle_new_parameters(base, set(info["missing_keys"]) | other)
    return base


def class_for(head: str, model_type: str) -> str:
    """The transformers class that :func:`load_base` makes for ``head``; empty where there is none."""
    names = {"mlm": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, "causal": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    names["seq2seq"] = auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    names["classification"] = auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    found: Any = names.get(head, {}).get(model_type, "")
    return found if isinstance(found, str) else found[0]


def load_class(
    name: str, model_class: str, *, num_labels: int, revision: str | None, attention: str | None, dtype: str
) -> Base:
    """Load ``name`` as the transformers class ``model_class``, for a model that met its plan by ``st.apply``.

    Its tokenizer is None where there is none: such a model may have been trained on ids.

    Raises:
        ModelError: transformers has no such class, no such model, or it cannot be loaded.
    """
    loader: Any = getattr(transformers, model_class, None)
    if not hasattr(loader, "from_pretrained"):
        raise ModelError(
            f"the adapter was trained on a {model_class}, which transformers does not have",
            "make that model, and give it: load(..., base=MODEL)",
        )
    _check_weights(Path(name))
    settings = {"dtype": getattr(torch, dtype), "attn_implementation": attention, "num_labels": num_labels}
    settings |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "revision": revision}
    with _told(name), _quiet():
        model, _ = load_model(loader, name, settings)
    return Base(model.eval(), _tokenizer(name, False, {"revision": revision}))  # pyright: ignore[reportArgumentType]


def _tokenizer(name: str, needed: bool, options: dict[str, Any]) -> PreTrainedTokenizerBase | None:
    try:
        return load_tokenizer(name, **options)
    except ModelError:
        if needed:
            raise
        return None


def _other_sizes(base: Base, mismatched: Iterable[Any]) -> set[str]:
    """Names of weights that the checkpoint has in another size: an output layer for another number of classes.

    Raises:
        ModelError: it is no output layer.
    """
    sizes = {entry[0]: (tuple(entry[1]), tuple(entry[2])) for entry in mismatched}
    own = {id(parameter) for parameter in Backbone(base.model).output_layer()}
    for name, parameter in base.model.named_parameters():
        if name in sizes and id(parameter) not in own:
            was, now = sizes[name]
            raise ModelError(
                f"{name} is {was} in the checkpoint of {base.model.config._name_or_path!r}, the model wants {now}",
                "its config belongs to another checkpoint",
            )
    if sizes:
        was, now = next(iter(sizes.values()))
        base.notices.append(
            f"the checkpoint's output layer has {was[0]} outputs, this task {now[0]}: it starts anew "
            f"({', '.join(sorted(sizes))})"
        )
    return set(sizes)


def load_tokenizer(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of ``name`` (a folder or a hub id).

    Raises:
        ModelError: it brings none, or one that knows no words.
    """
    with _told(name), _quiet():
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    check_words(tokenizer, name)
    return tokenizer


def _own_head(model: PreTrainedModel, unused: Iterable[str]) -> dict[str, bool]:
    """The setting with which the model has a place for the masked-LM head that its checkpoint holds; else empty.

    The published DeBERTa-v2 and v3 checkpoints keep their head under names that transformers reads with
    ``legacy=False`` alone, and their configs do not say so: a new head would take its place (transformers #18674).
    """
    setting = architecture_of(model.config.model_type, model.config.to_dict()).mlm_setting
    if setting is None or not any(name.startswith(setting[0]) for name in unused):
        return {}
    return {setting[1]: setting[2]}


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


def _check_head(head: str, *, causal: bool, two_stacks: bool) -> None:
    if two_stacks and head in ("mlm", "causal"):
        raise ModelError(
            f"this model is an encoder-decoder, and the head is {head}",
            "use --objective seq2seq (labels are told as text), classification or regression",
        )
    if not two_stacks and head == "seq2seq":
        raise ModelError(
            "this model is no encoder-decoder, and the head is seq2seq", "use T5 or BART, or another objective"
        )
    if causal and head == "mlm":
        raise ModelError("a decoder has no mask to read at (head mlm)", "use --objective causal or classification")
    if not causal and head == "causal":
        raise ModelError(
            f"head {head} needs a decoder, and this model is an encoder",
            "use --objective mlm or classification",
        )


def _settle_padding(base: Base) -> None:
    """Give a decoder's tokenizer a padding token where it has none (the end of text; padding is masked everywhere)."""
    tokenizer, config = base.tokenizer, base.model.config
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id  # the classification model finds the last token by it


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


def _settle_new_parameters(base: Base, missing: set[str]) -> None:
    """Decide what happens to parameters that the checkpoint lacks: they train, or the head is built anew."""
    backbone = Backbone(base.model)
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
    head = backbone.mlm
    if head is not None and head.can_reset and any(name.startswith(head.paths["dense"]) for name in missing):
        head.reset()
        for name in missing:
            mark_as_loaded(named[name])
        base.notices.append(
            "this model brings no masked-LM head: one was built on its tied embeddings (dense = identity)"
        )
    elif missing:
        base.new = sorted(missing)
        base.notices.append(f"new in this model, so they train: {', '.join(base.new)}")
