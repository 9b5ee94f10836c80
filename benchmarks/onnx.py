"""An ONNX export, merged to fp32 and to int8, compared with its run: scores, bytes and texts a second.

    python -m benchmarks.onnx --model MODEL --data FOLDER_WITH_sentence [--rounds 3] [--page docs/results/onnx.md]

A classifier of TREC's questions is trained (``2/3: full``, two epochs) and exported twice. Its 500 test questions are
then predicted by torch and by onnxruntime, one thread each, in turns; a ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.jobs import machine


def main() -> None:
    """Measure and print, or write, the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="the folder with sentence/TREC")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    text = page(measured(args), args)
    print(text)
    if args.page:
        args.page.write_text(text)


def measured(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Measure the run and both exports: the test score, bytes, and seconds of each round."""
    import torch

    import stratatune as st
    from stratatune.data.read_options import ReadOptions
    from stratatune.data.readers import read
    from stratatune.progress import Reporter
    from stratatune.training.config import validate
    from stratatune.training.predict import Predictor
    from stratatune.training.quantised import quantised
    from stratatune.training.run import train

    torch.set_num_threads(1)
    test = str(Path(args.data) / "sentence" / "TREC" / "TREC.test.all")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        given = {"model": args.model, "task": "trec", "train": test.replace("test", "train"), "eval": test}
        given |= {"plan": "2/3: full", "objective": "classification", "lr": 3e-4, "epochs": 2, "seed": 0}
        run = train(validate({**given, "out": place + "/run"}), reporter=Reporter(quiet=True)).out
        found: dict[str, dict[str, Any]] = {"torch, fp32": {"model": Predictor(run)}}
        for name in ("onnxruntime, fp32", "onnxruntime, int8"):
            out = folder / name.rpartition(" ")[2]
            st.export(st.load(run), out, to="onnx", tokenizer=_tokenizer(run))
            if name.endswith("int8"):
                quantised(out, Path(run), test, None)
            size = sum(file.stat().st_size for file in out.glob("model.onnx*"))
            found[name] = {"model": Predictor(out), "bytes": size}
        texts = read(test, ReadOptions(task="trec")).texts[0]
        for one in found.values():
            one["score"], one["seconds"] = one["model"].score(test)["metrics"]["accuracy"], []
        for _ in range(args.rounds):
            for one in found.values():
                started = time.perf_counter()
                one["model"].predict(texts)
                one["seconds"].append(time.perf_counter() - started)
    return found


def _tokenizer(run: Any) -> Any:
    from stratatune.model.artefact import load_artefact

    return load_artefact(run).tokenizer


def page(found: dict[str, dict[str, Any]], args: argparse.Namespace) -> str:
    """Make docs/results/onnx.md."""
    first = found["torch, fp32"]["seconds"]
    lines = [
        "# An ONNX export and its int8 form",
        "",
        f"Measured by `python -m benchmarks.onnx` (see its docstring): {Path(args.model).name} tuned on TREC, its 500",
        f"test questions predicted by one thread of {machine()}, {args.rounds} rounds in turns.",
        "",
        "| engine | accuracy | graph | texts a second | beside torch |",
        "|---|---|---|---|---|",
    ]
    for name, one in found.items():
        ratio = statistics.median(a / b for a, b in zip(first, one["seconds"], strict=True))
        size = f"{one['bytes'] / 1e6:.0f} MB" if "bytes" in one else ""
        rate = 500 / statistics.median(one["seconds"])
        lines.append(f"| {name} | {100 * one['score']:.1f} | {size} | {rate:.0f} | {ratio:.2f}x |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
