"""docs/integrations.md, from registries and tests: ``PYTHONPATH=tests python tests/docs/integrations_table.py``."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from stratatune.exits.registry import EXITS
from stratatune.training.config import Logger

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "integrations.md"
START, END = "<!-- integrations: made by tests/docs/integrations_table.py -->\n", "<!-- end -->\n"

EXIT_TESTS = {
    "native": ("model/test_saving.py", ""),
    "peft": ("exits/test_exporting.py", "test_stock_peft_says_the_same"),
    "merged": ("exits/test_doors.py", "test_merged_models_load_by_their_auto_class"),
    "sentence-transformers": ("objectives/test_vectors.py", ""),
    "onnx": ("exits/test_onnx.py", "test_every_encoder_says_the_same_with_an_adapter_and_a_late_prompt"),
}
INTEGRATIONS = (
    ("transformers", "`Trainer(st.apply(model, plan), ...)`", "apply.md", "exits/test_trainer.py", ""),
    (
        "transformers",
        "`pipeline(task, model=st.apply(model, plan))`",
        "apply.md",
        "exits/test_doors.py",
        "test_pipelines",
    ),
    (
        "transformers",
        "`data, top = st.cached(model, data)`, then `Trainer`",
        "apply.md",
        "training/test_cached.py",
        "test_the_trainer_comes_to_the_same_weights_and_the_trunk_rests",
    ),
    (
        "transformers",
        "the same under `torchrun`, also with Accelerate",
        "apply.md",
        "training/test_cached_together.py",
        "",
    ),
    (
        "Accelerate",
        "the same, then `accelerator.prepare(top, ...)`",
        "apply.md",
        "training/test_cached.py",
        "test_a_plain_loop_and_accelerate",
    ),
    (
        "Lightning",
        "the same, in a `LightningModule`",
        "apply.md",
        "training/test_cached.py",
        "test_lightning_trains_it",
    ),
    (
        "peft",
        "`st.load(LORA_FOLDER)`",
        "apply.md",
        "model/test_peft_import.py",
        "test_what_peft_trained_says_the_same_here_and_back_in_peft",
    ),
    (
        "peft",
        "`st.Adapters(base)`: load, set, off, by row",
        "apply.md",
        "model/test_adapters.py",
        "test_rows_have_an_adapter_each",
    ),
    (
        "scikit-learn",
        "`st.Classifier`, `st.Regressor`, `st.Tagger`, `st.Answerer`, `st.Embedder` in `Pipeline`, `GridSearchCV`, "
        "`cross_val_score`",
        "sklearn.md",
        "app/test_sklearn.py",
        "",
    ),
    (
        "onnxruntime",
        "`stratatune predict DIR`, `eval DIR` on an ONNX export",
        "export.md",
        "training/test_onnx_engine.py",
        "",
    ),
    (
        "the hub",
        '`export --push USER/NAME`, `st.load("user/name")`, `model.push_to_hub`',
        "export.md",
        "app/test_hub.py",
        "",
    ),
)
"""Library, what one writes, page, test file, test."""
TRACKERS = {
    "tensorboard": "test_tensorboard",
    "mlflow": "test_mlflow",
    "wandb": "test_wandb_offline",
    "trackio": "test_trackio_keeps_it_on_this_machine",
}


def rows() -> list[tuple[str, str, str, str, str]]:
    """Every integration: library, what one writes, page, test file, test."""
    found = list(INTEGRATIONS)
    for one in EXITS.values():
        path, test = EXIT_TESTS[one.name]
        found.append((f"exit `{one.name}`", f"`stratatune export RUN --to {one.name}`", "export.md", path, test))
    for name in get_args(Logger):
        test = TRACKERS.get(name, "")
        path = "training/test_trackers.py" if test else ""
        found.append((f"tracker `{name}`", f"`--loggers {name}`", "trackers.md", path, test))
    return found


def table() -> str:
    """A line for each integration."""
    lines = ["| library | what you write | page | used by the test |", "|---|---|---|---|"]
    for library, written, page, path, test in rows():
        opened = f"`tests/{path}`" + (f": `{test}`" if test else "") if path else "none here; through Accelerate"
        lines.append(f"| {library} | {written} | [{page}]({page}) | {opened} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with the table in its place."""
    before, _, rest = text.partition(START)
    return f"{before}{START}{table()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
