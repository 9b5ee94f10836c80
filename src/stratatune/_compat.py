"""Every line that depends on a library's version, and our own version."""

from __future__ import annotations

import atexit
import copy
import functools
import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune.errors import ConfigError, ResourceError, did_you_mean, shown

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

AttentionFunction = Callable[..., Any]
"""``(module, query, key, value, mask, **settings) -> (result, weights)``: transformers' attention interface."""


@functools.cache  # the metadata of a package is a file to find and read
def installed(package: str) -> str:
    """The installed version of ``package``, or an empty string."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def drops_late_fields() -> bool:
    """Whether a row with too many fields loses them without a word, where it is the first of a later piece of a file.

    So it is in pandas before 3.1; datasets reads pieces of 10,000 rows. Anywhere else such a row is an error.
    """
    return [int(part) for part in installed("pandas").split(".")[:2]] < [3, 1]


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Guard the import of a library that an extra of this package brings.

    Args:
        extra: its name in pyproject.toml.
        what: what the user requested, as the subject of "needs NAME".

    Raises:
        ResourceError: the library is not installed, with the line that installs it.
    """
    try:
        yield
    except ImportError as error:
        name = (error.name or extra).partition(".")[0]
        raise ResourceError(
            f"{what} needs {name}, which is not installed", f'pip install "stratatune[{extra}]"'
        ) from error


@contextmanager
def quieted(*libraries: str) -> Iterator[None]:
    """Leave out log lines of ``libraries`` below errors: advice about what a run does not use."""
    loggers = [logging.getLogger(name) for name in libraries]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


VERSION = installed("stratatune") or "0.0.0"

#: Libraries whose version may change what a trunk computes; they are part of a trunk cache's key.
NUMERIC_LIBRARIES = ("torch", "transformers")


def numeric_versions() -> tuple[tuple[str, str], ...]:
    """The ``(library, version)`` pairs that the numbers depend on."""
    return tuple((name, installed(name)) for name in NUMERIC_LIBRARIES)


def accelerator_for(device: str, loggers: Sequence[str], folder: Path) -> Accelerator:
    """Make an Accelerator on ``device`` (``auto``: the best there is), whose trackers write into ``folder``.

    Accelerate keeps one state a process and refuses a second run on another device; in one process that state is ours.
    Precision is the loop's own, by ``torch.autocast``, so that it may change from run to run. Where a launcher started
    several processes they stay connected until they end, since a script may train more than once.

    Raises:
        ConfigError: the machine has no such device.
        ResourceError: a tracker is not installed.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import ProjectConfiguration

    device = str(device)  # a torch.device, too
    there = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device not in there:
        # By its letters "gpu" is nearest to "cpu", which nobody means by it.
        said = "did you mean 'cuda'? legal: " + ", ".join(there) if device == "gpu" else did_you_mean(device, there)
        raise ConfigError([f"device: {shown(device)}"], said)
    if not there[device]:
        raise ConfigError(
            [f"device: {device!r} is not on this machine"],
            "there are: " + ", ".join(d for d, yes in there.items() if yes),
        )
    check_trackers(loggers)
    if PartialState._shared_state and PartialState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    connected = _are_connected()
    accelerator = Accelerator(
        cpu=device == "cpu",
        log_with=list(loggers) or None,
        project_config=ProjectConfiguration(logging_dir=str(folder)),
    )
    if _are_connected() and not connected:
        atexit.register(_disconnect)
    return accelerator


def _are_connected() -> bool:
    import torch.distributed as together

    return together.is_available() and together.is_initialized()


def _disconnect() -> None:
    """Leave the process group as the process ends: NCCL warns of those that do not."""
    import torch.distributed as together

    if _are_connected():
        together.destroy_process_group()


def check_trackers(loggers: Sequence[str]) -> None:
    """Refuse a tracker whose library is not installed: Accelerate leaves it out, with a warning at most.

    Raises:
        ResourceError: names the first, with the line that installs it.
    """
    for name in loggers:
        if importlib.util.find_spec(name) is None:
            raise ResourceError(f"the tracker {name} is not installed", f"pip install {name.replace('_', '-')}")


#: What transformers calls the key-value cache where it hands it to a model or a block: since 5.24, before that, and in
#: GPT-NeoX's blocks.
_CACHE_ARGUMENTS = ("cache", "past_key_values", "layer_past")


def cache_argument(block: nn.Module) -> str:
    """The keyword by which a decoder's block takes its key-value cache, as its class spells it.

    Asked of the block and not of transformers' version: a model's own code may keep the older name.
    """
    return _cache_argument(type(block))


def arguments_of(block: nn.Module) -> tuple[str, ...]:
    """The names of what a block takes after the hidden state, in their order."""
    return _arguments_of(type(block))


@functools.cache
def _arguments_of(block: type[nn.Module]) -> tuple[str, ...]:
    return tuple(inspect.signature(block.forward).parameters)[2:]


@functools.cache
def _cache_argument(block: type[nn.Module]) -> str:
    taken = inspect.signature(block.forward).parameters
    return next((name for name in _CACHE_ARGUMENTS if name in taken), _CACHE_ARGUMENTS[1])


def given_cache(kwargs: Mapping[str, Any]) -> Any | None:
    """The key-value cache among the keywords of a decoder's call, under either name; None where there is none."""
    return next((kwargs[name] for name in _CACHE_ARGUMENTS if kwargs.get(name) is not None), None)


def attention_of(attention: nn.Module, name: str | None = None) -> AttentionFunction:
    """The function by which a model's attention module attends: the one its config names, or ``name``.

    ``eager`` is in no table of transformers: every model's file has its own.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    config: Any = attention.config
    eager: Any = vars(sys.modules[type(attention).__module__]).get("eager_attention_forward")
    return ALL_ATTENTION_FUNCTIONS.get_interface(name or config._attn_implementation, eager)


def attend_through(attention: nn.Module, name: str, function: AttentionFunction) -> Any | None:
    """Let ``attention`` attend by ``function``, which gets the model's own attention function as its first argument.

    The module alone gets a config of its own, which names the new function; the model's config stays as it is, and with
    it how masks are made. Returns the config that it had (put it back to restore), or None where the module does not
    ask transformers' interface.
    """
    from transformers import PretrainedConfig
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    config, file = vars(attention).get("config"), vars(sys.modules[type(attention).__module__])
    if not isinstance(config, PretrainedConfig) or "ALL_ATTENTION_FUNCTIONS" not in file:
        return None
    own = config._attn_implementation or "eager"
    ALL_ATTENTION_FUNCTIONS.register(f"{name}-{own}", functools.partial(_attend, own, function))
    named = copy.copy(config)
    named._attn_implementation = f"{name}-{own}"
    vars(attention)["config"] = named
    return config


def _attend(own: str, function: AttentionFunction, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return function(attention_of(module, own), module, *args, **kwargs)


def class_of_auto(loader: Any, config: Any) -> Any:
    """The model class that ``loader`` (an Auto class, or a model class itself) uses for ``config``.

    An Auto class itself takes no state dict without a name.
    """
    mapping: Any = getattr(loader, "_model_mapping", None)
    if mapping is None:
        return loader
    found = mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found


_LOADED = "_is_hf_initialized"  # transformers' own mark; private, so tests/model/test_apply.py asks whether it is there


def came_with_checkpoint(parameter: nn.Parameter) -> bool:
    """Whether ``from_pretrained`` filled this parameter from the checkpoint; False also if that is unknown."""
    return getattr(parameter, _LOADED, False)


def save_by_own_names(model: Any) -> None:
    """Have ``save_pretrained`` write the names that are usual for this type of model.

    transformers 5 undoes what it did to the names when it loaded: a ``key_mapping``, without which it cannot load what
    it has then written, or nothing, where experts' matrices were joined before it saw them.
    """
    if hasattr(model, "_weight_conversions"):
        del model._weight_conversions


def as_saved(model: Any, name: str, tensor: Any) -> dict[str, Any]:
    """The tensors that ``model.save_pretrained`` writes of one, by their names: of experts those of each."""
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(model, {name: tensor})


def mark_as_loaded(parameter: nn.Parameter) -> None:
    """Mark a parameter as the checkpoint's own: it follows from that, and is not to be trained."""
    setattr(parameter, _LOADED, True)


@contextmanager
def without_init() -> Iterator[None]:
    """Let transformers make models without giving their weights values, while this is open."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        yield
