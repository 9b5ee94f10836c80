"""The schema of ``adapter.json``, checked once where the file is read, so that later code can rely on its types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from stratatune.outside import Written

if TYPE_CHECKING:
    from typing_extensions import Self

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]
PROBLEM_TYPES = get_args(ProblemType)
"""transformers' words for what a classification head learns."""
Count = Annotated[int, Field(ge=0, lt=2**63)]


class BaseRecord(Written):
    """The base model that the adapter was trained on."""

    name: str  # empty where the model was made from a config: then load is given the base
    model_type: str
    hash: str
    head: str
    attention: str | None = None
    path: str | None = None
    beside: str | None = None
    revision: str | None = None
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    model_class: Annotated[str, Field(alias="class")] = ""
    weights: str | None = None
    settings: dict[str, Any] | None = None


class StartRecord(Written):
    """The adapter that training began with: the run as its user named it, and the hash of its tensors."""

    run: str
    tensors: str


class SpecRecord(Written):
    """The fields of ``Attached.spec`` (how the model is used) that the model and its precision depend on."""

    objective: str | None = None
    labels: list[str] | None = None
    kept: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    scales: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    score: str = ""
    template: str | None = None
    chat_template: str | None = None
    stop_tokens: list[Count] = Field(default_factory=list)


class AdapterRecord(Written):
    """The whole record. ``reading`` is checked further by the objective that reads it.

    ``label_names`` and ``problem_type`` are those of the config of a model that no objective trained, where they are
    not transformers' own.
    """

    stratatune: str
    plan: Annotated[str, Field(min_length=1)]
    frozen_depth: Count
    trainable: Count
    base: BaseRecord
    output: str
    num_labels: Annotated[int, Field(ge=0, le=100_000)]
    label_names: list[str] | None = None
    problem_type: ProblemType | None = None
    also_train: list[str]
    reading: SpecRecord
    tokenizer: dict[str, str] | None = None
    started_from: StartRecord | None = None
    checksums: dict[str, str] | None = None

    @model_validator(mode="after")
    def _one_name_for_each_output(self) -> Self:
        if self.label_names is not None and len(self.label_names) != self.num_labels:
            raise ValueError(f"label_names: {len(self.label_names)} names for num_labels {self.num_labels}")
        return self

    @classmethod
    def check(cls, record: dict[str, Any]) -> None:
        """Raise pydantic's ValidationError if ``record`` is not such a record."""
        cls.model_validate(record)
