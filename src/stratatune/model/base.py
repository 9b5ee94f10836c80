"""Loading a base model and its tokenizer from a folder or a hub, with the head that an objective reads."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoTokenizer

from stratatune._compat import mark_as_loaded, save_by_own_names
from stratatune.errors import ModelError, StratatuneError, shown, with_article
from stratatune.hub import from_cache_if_unreachable
from stratatune.model.backbone import Backbone
from stratatune.model.cutting import cut_config, note_cut
from stratatune.model.damaged_files import damaged_file
from stratatune.model.device import device_kind
from stratatune.model.heads.head import Head
from stratatune.model.heads.registry import HEADS, head_named
from stratatune.model.loading import check_plain, load_model
from stratatune.model.streamed_top import deepest_unread
from stratatune.model.tokenizers import check_rows, check_words
from stratatune.model.unread import Unread
from stratatune.outside import path_exists
from stratatune.shapes.architectures import Architecture
from stratatune.shapes.composite import language_part, names_of_part, part_of
from stratatune.shapes.configs import whole_config_of
from stratatune.shapes.sizes import shape_of
from stratatune.shapes.table import architecture_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stratatune.shapes.shape import Shape

_OWN_HEAD = (
    "the checkpoint's own masked-LM head is read, by {}; where a model was trained to spot replaced tokens "
    "(DeBERTa-v3), that head knows little: objective classification needs none"
)
_PICKLED = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.bin")


@dataclass
class Base:
    """A pretrained model, ready for a plan.

    Attributes:
        model: the model in eval mode, with the requested head; it computes in fp32, its frozen weights are as stored.
        tokenizer: its own.
        new: names of the parameters that the checkpoint did not bring (apart from the task's output layer).
        notices: warnings for the user, one line each; :meth:`about_new` has one more.
        shape: the model's sizes, where they are known from its config.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    new: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    shape: Shape | None = None

    def about_new(self, supplied: Collection[str] = ()) -> list[str]:
        """A notice about the parameters of :attr:`new` that begin new; none where all of them are ``supplied``."""
        new = [name for name in self.new if name not in supplied]
        return [f"not in the checkpoint, so newly initialized and trained: {', '.join(new)}"] if new else []

    @cached_property
    def backbone(self) -> Backbone:
        """The model with its family and its head: made once, and passed on to the code that attaches a plan."""
        return Backbone(self.model, self.shape)


def load_base(
    name: str,
    head: str,
    *,
    num_labels: int = 2,
    labels: Sequence[str] = (),
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
    attention: str | None = None,
    dtype: str = "float32",
    tokenizer: PreTrainedTokenizerBase | None = None,
    texts: bool = True,
    unread_below: int = 0,
    room_above: int | None = None,
    cut: int | None = None,
    problem_type: str | None = None,
    shape: Shape | None = None,
    objectives: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Base:
    """Load ``name`` (a folder or a hub id) with a head of ``model/heads/``, and its tokenizer unless that is given.

    A head that the checkpoint does not bring is made with ``seed``: a masked-LM head as an identity on the tied
    embeddings, with a notice; a pooler or a classifier as the model's own code makes it. So is an output layer whose
    number of classes is another one than the checkpoint's. ``labels``: the names of the outputs in their
    order, which the rows of an output layer that the checkpoint brings then follow. ``texts``: whether it must have a
    tokenizer; without, the tokenizer is None where there is none. ``unread_below``: weights that only the blocks below
    this depth use, and the table of words where nothing else needs it, stays in the checkpoint
    (:class:`stratatune.model.unread.Unread`); so do the blocks above, where they take more than ``room_above`` bytes
    (``model/streamed_top.py``). ``cut``: how many blocks the model is made with, the lowest of those
    that the checkpoint has; the others are not read. ``problem_type``: transformers' word for what a classification
    head learns, in place of the head's own. ``shape``: the sizes of the whole model, where they are known.
    ``objectives``: the names of the objectives that read each head, for the hint where the model lacks this one.

    Raises:
        ModelError: no such model or head, no row for its family, a head that its family does not have, a model that
            cannot be loaded, or a tokenizer that does not belong to it.
    """
    # The family is known and its sizes are there, or one clear line says what is wrong; costs only the config.
    stored, worn = whole_config_of(name, revision), head_named(head)
    config, of_which = language_part(stored), part_of(stored)
    whole = shape or shape_of({**config, "_name_or_path": name})
    row = architecture_of(str(config["model_type"]), config)
    _check_head(row, worn, objectives)
    if not trust_remote_code:
        _check_class(worn, row, str(config["model_type"]), objectives)
    _check_weights(Path(name))
    check_plain(name, config, revision)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    # Weights that are pickled are never read: pickle can run code.
    settings: dict[str, Any] = {
        "use_safetensors": True,
        "dtype": getattr(torch, dtype),
        "attn_implementation": attention or attention_for_training(),
        **options,
        **worn.settings(num_labels),
        **({"problem_type": problem_type} if problem_type else {}),
    }
    if row.experts is not None:
        # On a CPU both ways are equally fast, and only the eager one takes fp64 and follows autocast.
        settings["experts_implementation"] = "eager" if settings["attn_implementation"] == "eager" else None
    if worn.parts != "lm":
        settings["ignore_mismatched_sizes"] = True  # which are looked at below
    if of_which:
        settings["key_mapping"] = names_of_part(row)
    loader: Any = getattr(transformers, worn.auto)
    notices: list[str] = []
    adjust = None if cut is None else functools.partial(cut_config, field=row.fields.blocks, depth=cut)
    load = functools.partial(
        load_model, loader, name, unread=unread_below > 0, adjust=adjust, part=config if of_which else None
    )
    # transformers draws new heads from the global generator: they are made by our seed, and the caller's random state
    # stays as it was.
    with _one_line(name, revision), _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, info = load(settings)
        if names := _other_names(model, info):
            settings["key_mapping"] = {**settings.get("key_mapping", {}), **names}
            model, info = load(settings)
        # Which layout the checkpoint's head has is known only from the names that found no place, so the model is
        # loaded a second time.
        own = worn.own_setting(row, info["unexpected_keys"])
        if own:
            model, info = load({**settings, **own})
            notices = [_OWN_HEAD.format(", ".join(f"{field}={value}" for field, value in own.items()))]
        if "key_mapping" in settings:
            save_by_own_names(model)
    tokenizer = tokenizer or _tokenizer(name, texts, options)
    there = whole if cut is None else whole.cut_at(cut)
    base = Base(model.eval(), tokenizer, notices=notices, shape=there)  # pyright: ignore[reportArgumentType]
    if cut is not None:
        note_cut(base.model, whole.blocks)
    backbone = base.backbone
    # Which weights the trunk alone reads is known only once the backbone has found its parts.
    if (unread := Unread.of(base.model)) is not None:
        depth = deepest_unread(backbone.body, unread_below, room_above)
        unread.load_all_but(base.model, backbone.family.streamable(depth))
    if tokenizer is not None:
        words: Any = model.get_input_embeddings()
        check_rows(tokenizer, words.weight.shape[0], name)
        backbone.family.prepare(tokenizer)
    other = _other_sizes(base, backbone, info["mismatched_keys"])
    new = set(info["missing_keys"]) | other
    _settle_new_parameters(base, backbone, new)
    if labels:
        _order_outputs(base, backbone, labels, new)
    return base


def _order_outputs(base: Base, backbone: Backbone, labels: Sequence[str], new: set[str]) -> None:
    """Put the rows of an output layer from the checkpoint into the order of ``labels``, or say that they differ."""
    layer, named = backbone.output_linear(), dict[Any, str](base.model.config.id2label or {})
    names = {id(parameter): name for name, parameter in base.model.named_parameters()}
    if layer is None or layer.out_features != len(labels) or names.get(id(layer.weight)) in new:
        return
    known = [str(named.get(number, "")) for number in range(len(labels))]
    theirs, ours = ([name.casefold() for name in some] for some in (known, labels))
    # Without names of its own a checkpoint has these.
    if theirs == ours or theirs == [f"label_{number}" for number in range(len(labels))]:
        return
    if sorted(theirs) != sorted(ours) or len(set(ours)) < len(ours):
        base.notices.append(
            f"the checkpoint's output layer is kept: its classes are {shown(', '.join(known))}, this task's "
            f"{shown(', '.join(labels))}, in this order"
        )
        return
    order = [theirs.index(name) for name in ours]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(parameter[order])
    base.notices.append("the checkpoint's output layer has the same classes in another order; its rows are reordered")


def _other_names(model: Any, info: Mapping[str, Any]) -> dict[str, str]:
    """How a checkpoint's names become those of this class, which calls its base model otherwise; empty if it does not.

    Llama's class for question answering, and those of three others, have ``transformer`` where checkpoints have
    ``model``: transformers loads them, and draws every weight anew.
    """
    own = model.base_model_prefix
    missing = set(info["missing_keys"])
    others = {name.partition(".") for name in info["unexpected_keys"]}
    roots = {root for root, _, rest in others if root != own and f"{own}.{rest}" in missing}
    return {rf"^{re.escape(root)}\.": f"{own}." for root in roots}


def class_for(head: str, model_type: str) -> str:
    """The transformers class that :func:`load_base` makes for ``head``; empty where there is none."""
    if model_type not in CONFIG_MAPPING:
        return ""
    loader: Any = getattr(transformers, head_named(head).auto)
    found: Any = loader._model_mapping.get(CONFIG_MAPPING[model_type], ())  # one class, or several; those added too
    first = next(iter(found), None) if isinstance(found, list | tuple) else found
    return "" if first is None else first.__name__


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
    with _one_line(name, revision), _quiet():
        model, _ = load_model(loader, name, settings)
    return Base(model.eval(), _tokenizer(name, False, {"revision": revision}))  # pyright: ignore[reportArgumentType]


def _tokenizer(name: str, needed: bool, options: dict[str, Any]) -> PreTrainedTokenizerBase | None:
    try:
        return load_tokenizer(name, **options)
    except ModelError:
        if needed:
            raise
        return None


def _other_sizes(base: Base, backbone: Backbone, mismatched: Iterable[Any]) -> set[str]:
    """Names of weights whose size differs in the checkpoint: an output layer for another number of classes.

    Raises:
        ModelError: it is not an output layer.
    """
    sizes = {entry[0]: (tuple(entry[1]), tuple(entry[2])) for entry in mismatched}
    # By identity: a tied weight has several names.
    own = {id(parameter) for parameter in backbone.output_layer()}
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
            f"the checkpoint's output layer has {was[0]} outputs, this task {now[0]}: it is newly initialised "
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
    with _one_line(name, revision), _quiet():
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    check_words(tokenizer, name)
    return tokenizer


def _check_head(row: Architecture, head: type[Head], objectives: Mapping[str, Sequence[str]]) -> None:
    """Refuse a head that a family, or a row of it, does not have."""
    there = [one for one in HEADS.values() if row.family in one.families]
    if head.name == "masked_lm" and not row.reads_words:
        raise ModelError(
            f"no label words are read with a {row.name} model, whose masked-LM head is an output matrix alone",
            _in_place(head, there, objectives),
        )
    if row.family in head.families:
        return
    said = f"head {head.name}: {row.name} is {with_article(row.family)}, which has none"
    raise ModelError(said, _in_place(head, there, objectives))


def _check_class(head: type[Head], row: Architecture, model_type: str, objectives: Mapping[str, Sequence[str]]) -> None:
    """Refuse a head for which transformers has no class of this type of model."""
    if model_type not in CONFIG_MAPPING or class_for(head.name, model_type):
        return
    made = [one for one in HEADS.values() if row.family in one.families and class_for(one.name, model_type)]
    raise ModelError(
        f"transformers {transformers.__version__} has no {model_type} model with this head ({head.auto})",
        _in_place(head, made, objectives),
    )


def _in_place(missing: type[Head], heads: Iterable[type[Head]], objectives: Mapping[str, Sequence[str]]) -> str:
    """A hint that names what works: the objectives that read one of the other heads, or else those heads."""
    names = [one.name for one in heads if one is not missing]
    learnt = [objective for name in names for objective in objectives.get(name, ())]
    return f"use --objective {', '.join(learnt)}" if learnt else f"its heads: {', '.join(names)}"


def attention_for_training(device: str = "auto") -> str | None:
    """The attention implementation for training when the user names none; None: transformers' choice.

    ``device`` as in a run's settings: a run on the CPU has the same numbers whether the machine has a GPU or not.

    On a CPU torch's fused attention has no dropout: it falls back to one that computes and saves in fp32. The model's
    own eager attention stays in the precision of the computation (7 % of a step of RoBERTa-large's top in bf16).
    """
    return "eager" if device_kind(device) == "cpu" else None


def _check_weights(folder: Path) -> None:
    """Refuse a folder that holds only pickled weights, before the library fails with its own message."""
    # A hub id has no such file here, and transformers itself refuses its pickles (use_safetensors).
    if not path_exists(folder / "config.json") or any(folder.glob("*.safetensors")):
        return
    pickled = [path.name for pattern in _PICKLED for path in sorted(folder.glob(pattern))]
    if pickled:
        raise ModelError(
            f"{folder} holds pickled weights ({pickled[0]}), which can run code and are not read",
            "save them once as safetensors: AutoModel.from_pretrained(FOLDER).save_pretrained(NEW)",
        )


@contextlib.contextmanager
def _one_line(name: str, revision: str | None = None) -> Iterator[None]:
    """Turn the libraries' many ways of failing to load into one line, which names the file at fault if one is."""
    try:
        with contextlib.nullcontext() if Path(name).is_dir() else from_cache_if_unreachable():
            yield
    except (StratatuneError, MemoryError):
        # Our own errors are one line already, and a lack of memory is not the folder's fault.
        raise
    except Exception as error:  # whatever transformers raises here is about this folder, or this id
        said, fix = damaged_file(name, revision)
        if said:
            raise ModelError(said, fix) from error
        if "ignore_mismatched_sizes" in str(error):  # with a report that is kept off the terminal
            raise ModelError(
                f"weights of {name!r} have other sizes than its config.json says",
                "one of the two belongs to another checkpoint: copy both again",
            ) from error
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
    """Decide what happens to parameters that the checkpoint lacks: they train, or the head is rebuilt."""
    named = dict(base.model.named_parameters())
    own = {id(parameter) for parameter in backbone.output_layer()}
    missing = {name for name in missing if name in named and id(named[name]) not in own}
    ids = backbone.encoder_ids()
    encoder = sorted(name for name in missing if id(named[name]) in ids)
    # A new head can be trained, a new encoder cannot: without this its random blocks would stay frozen.
    if encoder:
        raise ModelError(
            f"the checkpoint of {base.model.config._name_or_path!r} lacks {len(encoder)} weights of the encoder, "
            f"such as {encoder[0]}",
            "it was saved for another architecture",
        )
    built = backbone.head.build(missing)
    missing &= {name for name, _ in base.model.named_parameters()}  # a head may leave out what it does not read
    if built:
        for name in missing:
            # new_parts would otherwise take the built head for a new one, and train it whatever the plan says.
            mark_as_loaded(named[name])
        base.notices.append(built)
    elif missing:
        base.new = sorted(missing)
