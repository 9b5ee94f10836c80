"""Encode the data of a study that keeps no training result, as a run of the same settings would, without the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stratatune.errors import ConfigError, DataError, ModelError

if TYPE_CHECKING:
    from stratatune.training.prepare import Prepared


def settled(source: str, **settings: Any) -> Prepared:
    """A run's objective and data.

    Args:
        source: a file, a folder or a hub id.
        settings: some of :class:`stratatune.RunConfig`: ``model``, ``plan``, ``task``, ``text``, ``label``,
            ``template``, ``max_length``.

    Raises:
        UserError: a mistake in the settings or the data, or a model without a tokenizer.
    """
    from stratatune.training.config import validate
    from stratatune.training.prepare import Outline, read_tables, settle, tokenizer_for

    config = validate({**{name: value for name, value in settings.items() if value is not None}, "train": source})
    outline = Outline(config)
    tables = read_tables(config, {}, outline.kind)
    try:
        tokenizer = tokenizer_for(config)
    except ModelError as error:
        raise DataError(
            f"{config.model} brings no tokenizer to encode {source} with",
            "give a folder or a hub id that has one, or a .txt with the tokens of each example",
        ) from error
    return settle(outline, tables, tokenizer)


def lengths_in(source: str, **settings: Any) -> list[int]:
    """The number of tokens of each example: from a text file of numbers, one a line, or from a data file, encoded.

    Raises:
        UserError: as :func:`settled`.
        DataError: there is no such file, or a number below 1.
        ConfigError: columns of a text file of numbers.
    """
    from pathlib import Path

    from stratatune.training.settings import check_source

    if wrong := check_source("lengths", source, files=True):
        raise DataError(wrong, "check the path")
    path = Path(source).expanduser()
    if path.is_file() and path.suffix.lower() == ".txt":
        words = path.read_text(encoding="utf-8").split()
        odd = [word for word in words if not word.isdecimal() or int(word) < 1]
        if odd or not words:
            raise DataError(
                f"{source}: {odd[0]!r} is not a length" if odd else f"{source} is empty",
                "write the tokens of an example on each line, or name a data file (csv, jsonl, parquet)",
            )
        columns = {name: settings.get(name) for name in ("task", "text", "label", "template", "max_length")}
        if odd := [f"{name}: {value!r}; {source} holds lengths, no texts" for name, value in columns.items() if value]:
            raise ConfigError(odd, "leave it out, or name a data file (csv, jsonl, parquet)")
        return [int(word) for word in words]
    return settled(source, **settings).train.lengths.tolist()
