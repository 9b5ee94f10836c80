"""A run's configuration: one frozen, closed model, and the ways in (a YAML file, ``--set``) and out of it.

Nothing here imports torch: every mistake is found, all at once, before a model or the data is touched.
"""

from __future__ import annotations

import math
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from stratatune.data.several import names_of_files
from stratatune.data.written import BadRows, Written
from stratatune.elsewhere import advice
from stratatune.errors import ConfigError, UserError, did_you_mean, nearest, shown
from stratatune.outside import refuse_switch
from stratatune.training.settings import check_folder, check_source, dump, load_config, looks_like_path, merge

__all__ = [
    "AUTO",
    "IN_MEMORY",
    "NOT_TRAINED_BY",
    "NO_NUMBER",
    "RunConfig",
    "commented_yaml",
    "load_config",
    "merge",
    "parse_bytes",
    "to_yaml",
    "validate",
]

Logger = Literal["tensorboard", "wandb", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab", "trackio"]
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_LARGEST = 10**12
_MOST_ERRORS = 40  # each is compared with every setting's name
_MOST_EVALUATIONS = 1000  # of an epoch
_ROUNDED = 2e-3  # so that 0.333 is a third
_CACHE_WORDS = ("auto", "off", "ram")
AUTO = "auto"
"""Written in place of a plan: it is chosen from the data (``studies/suggest/auto.py``)."""
IN_MEMORY = "in-memory"
"""The value of a setting that names data, where these have no path."""
CHOSEN_BY_AUTO = ("lr", "epochs", "early_stopping", "head_start")
"""Settings that come with a plan chosen by ``auto``, unless they are given."""
NO_NUMBER = (
    *("out", "resume", "loggers", "cache", "cache_limit", "checkpoint_every", "device", "trunk", "memory_limit"),
    "eval_batch_size",
)
"""Settings that change no result beyond rounding: they are not in a run's id."""
NOT_TRAINED_BY = (*NO_NUMBER, "test")
"""Settings that change nothing that is trained: they may differ between a run and its resumption."""


def parse_bytes(text: str) -> int:
    """Bytes of a text such as ``10GB`` (10^10), ``512MiB`` (2^29) or ``1000``; ValueError otherwise."""
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([A-Za-z]*)\s*", text)
    if not found or found[2].upper() not in _UNITS:
        raise ValueError("a number with a unit, such as 500MB, 10GB or 8GiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_large(value: Any) -> bool:
    return isinstance(value, int) and abs(value) > _LARGEST


class RunConfig(BaseModel):
    """All settings of one run. :func:`validate` makes one from plain data and reports every mistake in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, protected_namespaces=())

    model: str = Field(description="The base model: a hub id or a folder.")
    revision: str | None = Field(None, description="The hub revision of the model: a branch, a tag or a commit.")
    trust_remote_code: bool = Field(False, description="Whether code that comes with a hub model may run.")
    attention: Literal["auto", "sdpa", "eager"] = Field("auto", description="The attention implementation.")
    plan: str = Field(
        AUTO,
        description="What trains at which depth: a preset's name, a plan's text, or auto, which chooses the plan from "
        "the data, and also lr, epochs and early_stopping unless they are given.",
    )
    start_from: str | None = Field(
        None,
        description="Begin with the trained weights of another run on the same base model: its folder, or that of its "
        "adapter. Unless they are given, the plan, its rate and the base model are those of that run.",
    )
    objective: str = Field(
        "auto",
        description="What the model learns; auto: what the plan's paper does, if the task allows it. For decoders: "
        "causal (label words after the text), completion (any text after it, or the text itself), chat "
        "(conversations), dpo (preferred and rejected answers). For encoder-decoders: seq2seq (any text).",
    )
    loss: Literal["vocab", "words"] = Field(
        "vocab", description="For mlm: the loss over the whole vocabulary, or over the label words only."
    )

    task: str | None = Field(
        None, description="A named task (`stratatune list tasks`): its columns, label words, template and metric."
    )
    text: tuple[str, ...] = Field((), description="The text columns, in order; empty means the task's.")
    label: str | None = Field(
        None, description="The label column; several columns train one head each (multitask). Null means the task's."
    )
    weight: str | None = Field(
        None, description="A column with a weight for each training row, 0 or more; null: all rows count the same."
    )
    template: str | None = Field(
        None,
        description="For mlm: a template's name or text; null means the task's. For conversations: a file with a chat "
        "template in Jinja, or plain; null means the tokenizer's own.",
    )
    label_words: dict[str, str] = Field(
        default_factory=dict,
        description="For mlm: the word for each label; empty means the task's, or the labels themselves.",
    )

    train: str = Field(description="Training data: a file, several (a pattern, or a list), a folder or a hub id.")
    eval: str | None = Field(
        None,
        description="Evaluation data; null means the task's own split, or the validation split of the training data's "
        "folder, hub id or DatasetDict, if there is one.",
    )
    eval_split: float | str | None = Field(
        None, description="Instead of `eval`: the name of a split, or the fraction of `train` to hold out."
    )
    test: str | None = Field(None, description="Test data, scored once with the best weights.")
    corpus: str | None = Field(
        None,
        description="Documents to search besides those of the evaluation data, one text per row (vectors); "
        "hard negatives are mined from them, too.",
    )
    corpus_column: str | None = Field(
        None, description="The column of the corpus' texts; null: its only one, or the only one with a usual name."
    )
    train_samples: int | None = Field(
        None, gt=0, description="Train on this many rows, sampled with the seed; null: all."
    )
    bad_rows: BadRows = Field(
        "refuse",
        description="Rows with a blank text or without a label: refuse the file, skip them, or read a blank text as an "
        "empty one.",
    )
    delimiter: str | None = Field(
        None, description="Column separator of csv and tsv files: a character or its name; null: detected."
    )
    encoding: str | None = Field(
        None, description="Encoding of text files; null: that of their byte-order mark, otherwise UTF-8."
    )
    max_length: int | None = Field(
        None,
        validate_default=True,
        gt=2,
        description="Maximum number of tokens in an example; longer text is cut. Null: 256; 384 for span, 512 for "
        "completion and rank, 1,024 for chat and dpo.",
    )
    out: str = Field("runs/latest", description="The run folder: adapter, configuration, metrics and report.")

    epochs: int = Field(10, gt=0, description="Passes over the training data.")
    max_steps: int | None = Field(
        None,
        gt=0,
        description="Stop after this many optimiser steps, unless the epochs end before; null: only the epochs count.",
    )
    batch_size: int | None = Field(
        32,
        gt=0,
        description="Examples per batch; null if token_budget is given. Batches of "
        "long texts are computed in parts of about 8,192 tokens: the step is the same, with less memory.",
    )
    token_budget: int | None = Field(
        None, gt=0, validate_default=True, description="Tokens per batch, padding included, instead of batch_size."
    )
    accumulate: int = Field(1, gt=0, description="Batches whose gradients are added up before a step.")
    lr: float = Field(
        1e-3, gt=0, allow_inf_nan=False, description="Peak learning rate; a method's own rate overrides it."
    )
    weight_decay: float = Field(0.1, ge=0, allow_inf_nan=False, description="AdamW's decay; none on biases and norms.")
    head_start: Literal["auto", "drawn", "fitted"] = Field(
        "auto",
        description="How a new output layer is initialised: drawn at random, or fitted to the untrained model's pooled "
        "output for 1,000 training examples; auto: fitted for tags, label sets and several "
        "label columns, and under `plan: auto`.",
    )
    warmup: float = Field(0.06, ge=0, le=1, description="The fraction of all steps over which the rate rises.")
    schedule: Literal["linear", "constant", "cosine"] = Field(
        "linear", description="The rate after warm-up: decays to zero (linear or cosine), or stays constant."
    )
    clip: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="The gradient is clipped to this norm; 0: no clipping."
    )
    adam_eps: float = Field(1e-8, gt=0, allow_inf_nan=False, description="AdamW's epsilon.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seeds new weights, the order of examples and dropout.")

    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where to compute.")
    precision: Literal["fp32", "bf16", "auto"] = Field(
        "auto", description="Precision of the computation; auto: bf16 if the hardware supports it, otherwise fp32."
    )
    trunk: Literal["auto", "resident", "streamed"] = Field(
        "auto",
        description="Where the frozen part below the top is: resident in memory, or streamed from the checkpoint block "
        "by block into the trunk cache; auto: streamed if the model does not fit in memory.",
    )
    pack: Literal["none", "int8", "nf4"] = Field(
        "none",
        description="Hold the frozen linear layers of the top in 8 bits, or in 4 as QLoRA does (extra `pack`).",
    )
    memory_limit: str | None = Field(
        None, description="Memory that the run may use, such as 6GB; null: what the machine has free."
    )
    cache: str = Field("auto", description="The trunk cache: auto, off, ram, or a folder (./ram for one named ram).")
    cache_dtype: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto",
        description="How the cache keeps hidden states; auto: as they are computed, or with `cache: auto` in int8 "
        "if that does not fit. int8 has one scale per channel, found on a sample of the training data.",
    )
    cache_limit: str = Field("10GB", description="The largest cache; beyond it, the trunk runs again in each epoch.")

    metric: str | None = Field(
        None,
        description="The metric that decides which evaluation is the best (equal scores: the lower evaluation loss); "
        "null means the task's.",
    )
    eval_every: int | float = Field(
        1,
        gt=0,
        allow_inf_nan=False,
        description="Epochs between evaluations, or a fraction of an epoch: 1/4 or 0.25 is four evaluations per epoch, "
        "at evenly spaced steps.",
    )
    eval_batch_size: int = Field(
        64, gt=0, description="Examples per batch of an evaluation; scores do not depend on it, beyond rounding."
    )
    early_stopping: int = Field(0, ge=0, description="Stop after this many evaluations without improvement; 0: never.")
    checkpoint_every: int = Field(
        0, ge=0, description="Steps between additional checkpoints; 0: only after each epoch and each evaluation."
    )
    resume: bool = Field(False, description="Resume from the last checkpoint in `out`.")
    loggers: tuple[Logger, ...] = Field((), description="Trackers in addition to metrics.jsonl, through Accelerate.")

    @property
    def written(self) -> Written:
        """The format of the data files, for the readers."""
        return Written(self.delimiter, self.encoding, self.bad_rows)

    @property
    def evaluations(self) -> int:
        """The number of evaluations in an epoch, the one at its end included; 1 also where epochs go without."""
        return max(1, round(1 / self.eval_every))

    @property
    def cache_limit_bytes(self) -> int:
        """``cache_limit`` in bytes."""
        return parse_bytes(self.cache_limit)

    @property
    def memory_limit_bytes(self) -> int | None:
        """``memory_limit`` in bytes."""
        return None if self.memory_limit is None else parse_bytes(self.memory_limit)

    @field_validator("*", mode="wrap")
    @classmethod
    def _of_a_size(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        # A huge number is refused unparsed; one in a text is known to be huge only when it is parsed.
        read = value if _is_large(value) else handler(value)
        if _is_large(read):  # as it was given, or as a text of digits was read
            raise ValueError(f"a number up to {_LARGEST:,}")
        return read

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        return refuse_switch(value, cls.model_fields[str(info.field_name)].annotation)

    @field_validator("model", "start_from", "train", "eval", "test", "corpus", "out", "cache", mode="before")
    @classmethod
    def _path_is_text(cls, value: Any) -> Any:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_validator("model", "start_from", "train", "eval", "test", "corpus", "out", "cache")
    @classmethod
    def _home_is_a_folder(cls, value: str | None) -> str | None:
        return str(Path(value).expanduser()) if value and value.startswith("~") else value

    @field_validator("train", "eval", "test", "corpus", mode="before")
    @classmethod
    def _files_are_joined(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple) or not value or not all(isinstance(one, str | Path) for one in value):
            return value
        try:
            return names_of_files(value)
        except UserError as error:
            raise ValueError(_sentence(error)) from error

    @field_validator("text", "loggers", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        value = str(value) if _is_number(value) else value  # a column that is called 1
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("label", mode="before")
    @classmethod
    def _columns_are_joined(cls, value: Any) -> Any:
        from stratatune.data.label_sets import joined

        if not isinstance(value, list | tuple) or not all(isinstance(name, str) or _is_number(name) for name in value):
            return value
        names = [str(name) for name in value]
        return names[0] if len(names) == 1 else joined(names) or None

    @field_validator("label_words", mode="before")
    @classmethod
    def _labels_are_text(cls, value: Any) -> Any:
        return {str(label): word for label, word in value.items()} if isinstance(value, Mapping) else value

    @field_validator("plan", mode="before")
    @classmethod
    def _plan_parses(cls, value: Any) -> Any:
        from stratatune.plan import Plan

        if isinstance(value, str) and value.strip() == AUTO:
            return AUTO
        try:
            if isinstance(value, str):
                Plan.parse(value)
                return value
            return str(value if isinstance(value, Plan) else Plan.from_data(value))
        except UserError as error:
            raise ValueError(_sentence(error)) from error

    @field_validator("objective")
    @classmethod
    def _objective_exists(cls, value: str) -> str:
        from stratatune.objectives.registry import written

        try:
            written(value)
        except ConfigError as error:
            _, _, what = error.message.partition("; ")
            raise ValueError("; ".join(part for part in (what, error.hint) if part)) from error
        return value

    @field_validator("max_length", mode="before")
    @classmethod
    def _as_the_objective_needs(cls, value: Any, info: ValidationInfo) -> Any:
        # An objective that is wrong is not there, and has an error of its own.
        return longest_under(info.data.get("objective", AUTO)) if value is None else value

    @field_validator("task")
    @classmethod
    def _task_exists(cls, value: str | None) -> str | None:
        from stratatune.data.tasks import task

        try:
            return None if value is None else task(value).name
        except UserError as error:
            raise ValueError(_sentence(error)) from error

    @field_validator("delimiter", "encoding")
    @classmethod
    def _is_written_so(cls, value: str | None, info: ValidationInfo) -> str | None:
        try:
            Written(**{str(info.field_name): value})  # pyright: ignore[reportArgumentType]  names of two fields
        except UserError as error:
            raise ValueError(error.hint) from error
        return value

    @field_validator("max_steps")
    @classmethod
    def _not_chosen_by_auto(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("plan") == AUTO:
            raise ValueError("plan: auto chooses how long to train; name a plan")
        return value

    @field_validator("batch_size", "token_budget")
    @classmethod
    def _one_batch_measure(cls, value: int | None, info: ValidationInfo) -> int | None:
        # Fields are validated in their order, so the second of the two sees both; a first one that is wrong is not
        # there.
        if info.field_name == "token_budget" and "batch_size" in info.data:
            if value and info.data["batch_size"]:
                raise ValueError("give batch_size or token_budget, not both (the other one null)")
            if not value and not info.data["batch_size"]:
                raise ValueError("give batch_size or token_budget")
        return value

    @field_validator("eval_split")
    @classmethod
    def _fraction(cls, value: float | str | None, info: ValidationInfo) -> float | str | None:
        if isinstance(value, float):
            if not 0 < value < 1:
                raise ValueError("a split's name, or a fraction between 0 and 1")
            # `eval` comes before `eval_split` in the class, so its value is known here.
            if info.data.get("eval"):
                raise ValueError("eval is given too; a fraction of train is held out only without it")
        return value

    @field_validator("eval_every", mode="before")
    @classmethod
    def _quotient(cls, value: Any) -> Any:
        found = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", value) if isinstance(value, str) else None
        if found and int(found[2]):
            return int(found[1]) / int(found[2])
        try:
            large = abs(float(value)) > _LARGEST
        except OverflowError:
            large = True
        except (TypeError, ValueError) as error:
            raise ValueError("a number of epochs, or a part of one such as 1/4") from error
        if large:
            raise ValueError(f"a number up to {_LARGEST:,}")
        return value

    @field_validator("eval_every")
    @classmethod
    def _whole_or_its_inverse(cls, value: float) -> int | float:
        if value >= 1:
            if value == int(value):
                return int(value)
            legal = f"{int(value)} or {int(value) + 1}"
        elif value < 0.999 / _MOST_EVALUATIONS:
            legal = f"1/{_MOST_EVALUATIONS}"
        else:
            parts = 1 / value
            if abs(parts - round(parts)) < _ROUNDED * parts:
                return 1 / round(parts)  # 0.333 and 1/3 are one setting
            more = math.ceil(parts)
            legal = f"1/{more} or " + (f"1/{more - 1}" if more > 2 else "1")
        raise ValueError(f"a whole number of epochs, or 1/2, 1/3, 1/4, ... of one; nearest: {legal}")

    @field_validator("cache")
    @classmethod
    def _cache_word(cls, value: str) -> str:
        word = nearest(value.lower(), _CACHE_WORDS)
        if not value or (word and value not in _CACHE_WORDS):
            raise ValueError("auto, off, ram or a folder" + (f"; did you mean {word!r}, or ./{value}?" if word else ""))
        return value

    @field_validator("cache_limit", "memory_limit")
    @classmethod
    def _limit_parses(cls, value: str | None) -> str | None:
        if value is not None:
            parse_bytes(value)
        return value


def longest_under(objective: str) -> int:
    """The ``max_length`` of a run of this objective that names none."""
    from stratatune.objectives.objective import Objective
    from stratatune.objectives.registry import OBJECTIVES, written

    name, _ = written(objective)
    return OBJECTIVES.get(name, Objective).longest


def is_default(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a setting of a whole configuration, as its file has it, is what it would be unless it were named."""
    field = RunConfig.model_fields.get(name)
    if field is None:
        return False
    value, default = settings[name], field.get_default(call_default_factory=True)
    default = longest_under(str(settings.get("objective", AUTO))) if name == "max_length" else default
    return value == (list(default) if isinstance(default, tuple) else default)


def validate(data: Mapping[str, Any], *, check_files: bool = True) -> RunConfig:
    """The configuration that ``data`` describes.

    Args:
        data: plain data, as from a YAML file; a ``token_budget`` takes the place of the default ``batch_size``, and the
            run named by ``start_from`` gives the plan, its rate and the model where they are missing.
        check_files: whether the files named must exist; not so for a configuration read back from a finished run.

    Raises:
        ConfigError: names every mistake, one line each: ``path: value; what is legal``.
    """
    values = dict(data)
    if values.get("token_budget") is not None:
        # The default batch size is nobody's wish, so it is not a contradiction to a token budget.
        values.setdefault("batch_size", None)
    errors = _begin_as_another(values, check_files)
    config = None
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        # A union reports each of its branches; one line a setting is enough, the first.
        wrong = list({_path(item): item for item in reversed(error.errors(include_url=False))}.values())[::-1]
        # A run to start from that cannot be read does not say which model it is of.
        wrong = [item for item in wrong if not (errors and item["type"] == "missing" and _path(item) == "model")]
        errors += [_line(item, values) for item in wrong[:_MOST_ERRORS]]
        if len(wrong) > _MOST_ERRORS:
            errors.append(f"and {len(wrong) - _MOST_ERRORS:,} more settings are wrong")
    if config is not None and config.start_from is not None and config.plan == AUTO and not errors:
        errors.append(_not_auto(config.start_from))
    # Even where the settings are wrong: all mistakes are said at once, and these need no valid configuration.
    if check_files:
        errors += _file_errors(values)
    if config is None or errors:
        raise ConfigError(errors, "every setting is explained in the file that `stratatune init` writes")
    return config


def _begin_as_another(values: dict[str, Any], check_files: bool) -> list[str]:
    """Fill in what the run named by ``start_from`` says of a run without a plan or a model; returns an error line."""
    name = values.get("start_from")
    if _is_number(name):  # a folder that is called 5
        name = values["start_from"] = str(name)
    if not isinstance(name, str | os.PathLike):
        return []
    if str(values.get("plan")).strip() == AUTO:
        return [_not_auto(name)]
    from stratatune.training.start import check_apart, settings_of, settings_of_finished

    out = str(values.get("out") or RunConfig.model_fields["out"].default)
    try:
        if values.get("resume") and (own := settings_of_finished(out, str(name))):
            values |= {setting: value for setting, value in own.items() if setting not in values}
            return []
        if check_files:
            check_apart(str(name), out)
        if check_files or not {"plan", "model"} <= values.keys():
            values |= settings_of(str(name), values)
    except ConfigError as error:
        return error.errors
    return []


def _not_auto(name: object) -> str:
    return f"start_from: {shown(str(name))}; plan: auto is chosen for the base model; leave out --plan, or name a plan"


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as it is written into the run folder; reads back to an equal one."""
    return dump(config.model_dump(mode="json"))


_HEADINGS = {
    "model": "The model and the plan",
    "task": "What the data mean (the task's own, where one is named)",
    "train": "Where the data are",
    "epochs": "The optimiser",
    "device": "The machine and the trunk cache",
    "metric": "Evaluation, checkpoints and tracking",
}


def headings() -> dict[str, str]:
    """The heading of each setting, in the order of the settings."""
    found, heading = dict[str, str](), ""
    for name in RunConfig.model_fields:
        heading = _HEADINGS.get(name, heading)
        found[name] = heading
    return found


def commented_yaml(model: str = "roberta-base", train: str = "train.csv") -> str:
    """A YAML file with every setting at its default, each under its description, as ``stratatune init`` writes it."""
    required = {"model": model, "train": train}
    lines = ["# A run of stratatune: `stratatune train THIS-FILE`. Lines that keep their default can be deleted."]
    for name, field in RunConfig.model_fields.items():
        if name in _HEADINGS:
            lines += ["", f"# ---- {_HEADINGS[name]} ----"]
        lines += textwrap.wrap(
            (field.description or "") + choices(name),
            118,
            initial_indent="# ",
            subsequent_indent="# ",
        )
        value = required[name] if field.is_required() else field.get_default(call_default_factory=True)
        line = dump({name: list(value) if isinstance(value, tuple) else value}).strip()
        lines.append(f"# {line}" if name in CHOSEN_BY_AUTO else line)  # a line that is there counts as given
    return "\n".join(lines) + "\n"


def words(name: str) -> tuple[str, ...]:
    """The legal words of a setting, if it has any: those of its type, or the names in the table of objectives."""
    from stratatune.objectives.registry import names

    annotation = RunConfig.model_fields[name].annotation
    return names() if name == "objective" else get_args(annotation) if get_origin(annotation) is Literal else ()


def choices(name: str) -> str:
    """The legal words of a setting as a sentence; empty if it has none."""
    found = words(name)
    return f" One of: {', '.join(found)}." if found else ""


def _file_errors(values: Mapping[str, Any]) -> list[str]:
    """Find named files that are missing, and folders that cannot be written. Needs no valid configuration."""
    found: list[str] = []
    for key in ("model", "train", "eval", "test", "corpus"):
        if isinstance(values.get(key), str):
            found.append(check_source(key, values[key], files=key != "model"))
    for key in ("out", "cache"):
        value = values.get(key)
        if isinstance(value, str) and (key == "out" or looks_like_path(value, files=False)):
            found.append(check_folder(key, value))
    return [line for line in found if line]


def _path(item: Mapping[str, Any]) -> str:
    """The path of an error's location, such as ``label_words.yes``, without a union's branches."""
    where = item["loc"]
    keep = where if where and where[0] in ("label_words", "text", "loggers") else where[:1]
    return ".".join(str(part) for part in keep)


def _line(item: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    path, kind, value, context = _path(item), item["type"], item["input"], item.get("ctx", {})
    if isinstance(given.get(path), str):  # as it was written, and not as it was read: 0/3 is no 0.0
        value = given[path]
    if kind == "missing":
        return f"{path}: missing; {RunConfig.model_fields[path].description}"
    if kind == "extra_forbidden":
        said = advice(path, RunConfig.model_fields)
        return f"{path}: unknown setting" + (f"; {said}" if said else "")
    legal = item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    legal = f"must be {legal}" if item["msg"].startswith("Input should be ") else legal
    if kind == "literal_error":
        legal = did_you_mean(str(value), _literals(context["expected"]))
    return f"{path}: {shown(value)}; {legal}"


def _literals(expected: str) -> Sequence[str]:
    """The words in pydantic's ``'a', 'b' or 'c'``."""
    return re.findall(r"'([^']*)'", expected)


def _sentence(error: UserError) -> str:
    hint = error.hint.partition("\n")[0]  # without the picture of the place, which needs separate lines
    return f"{error.message} ({hint})" if hint else error.message
