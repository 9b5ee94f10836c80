"""Texts that the tokenizer or the model cannot read: an error before anything trains, or a notice."""

from __future__ import annotations

import pytest

import tiny
from runs import rows, write_csv
from stratatune.errors import DataError
from stratatune.training.predict import Predictor


def test_an_added_token_without_a_row_is_refused_where_a_text_holds_it(run, family, tmp_path):
    """As Gemma 3's image token: the tokenizer has it, the text model has no row for it, and no text holds it."""
    tokenizer = tiny.tiny_tokenizer(family)
    tiny.tiny_model(family, vocab=len(tokenizer)).save_pretrained(tmp_path / "base")
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(tmp_path / "base")
    data = rows(8, 0)
    run(model=str(tmp_path / "base"), epochs=1, out=str(tmp_path / "fits"))
    with pytest.raises(DataError, match="holds '<image>'"):
        Predictor(tmp_path / "fits").predict(["a good <image> film"])
    data[2]["text"] += " <image>"
    with pytest.raises(DataError, match="train.csv.*holds '<image>'"):
        run(model=str(tmp_path / "base"), train=str(write_csv(tmp_path / "train.csv", data)))


def test_the_share_of_unknown_words_is_shown(run, tmp_path):
    data = rows(24, 0)
    for row in data[:20]:
        row["text"] += " \u4e00 \u4e8c \u4e09"
    said = run(train=str(write_csv(tmp_path / "train.csv", data)), eval=None, epochs=1).notices
    assert any("of the tokens are words that the tokenizer does not know" in notice for notice in said)
    prediction = Predictor(tmp_path / "run").predict(["\u4e00 \u4e8c good"])
    assert any("does not know" in notice for notice in prediction.table.notices)
    assert not any("does not know" in n for n in run(out=str(tmp_path / "plain"), epochs=1).notices)
