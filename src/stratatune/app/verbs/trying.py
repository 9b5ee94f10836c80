"""``stratatune demo``: show the project in two minutes, with no hub."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from stratatune.app.door import Answer, Door, verb


@verb()
def demo(
    door: Door,
    out: Annotated[
        Path, typer.Option(help="The folder for its runs; if it exists, a new one next to it is used.")
    ] = Path("runs/demo"),
    text: Annotated[str | None, typer.Option(help="A sentence to predict at the end.", show_default=False)] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the 450 training texts; 5 by default.", show_default=False)
    ] = None,
) -> Answer:
    """Train two plans on a sample data set with a packaged model, compare them, and predict a sentence of yours."""
    from stratatune.app import demo as steps
    from stratatune.app.predictions import output_of
    from stratatune.app.verbs.predicting import shown

    reporter = door.reporter()
    steps.packaged_model()
    folder = steps.fresh_folder(out)
    samples = steps.write_samples(folder)
    results = steps.compare(folder, samples, epochs or steps.SETTINGS["epochs"], reporter)
    first = next(iter(results))
    reporter.say(f"\n{steps.table(results)}\n\nthe adapter of {first}: {folder / first / 'adapter'}\n")
    sentence = steps.ask(text, reporter)

    from stratatune.training.predict import Predictor

    predictor = Predictor(folder / first)
    output = output_of(predictor.predict([sentence]))
    row = next(output.rows())
    answer = shown(next(output.answers()), output.chances)
    data = {
        "out": str(folder),
        "results": {plan: result.to_json() for plan, result in results.items()},
        "prediction": row,
    }
    note = f"\nnext: stratatune predict {shlex.quote(str(folder / first))} --text 'A SENTENCE OF YOURS'"
    return Answer(data, f"{sentence!r}\n  is classified as: {answer}", note)
