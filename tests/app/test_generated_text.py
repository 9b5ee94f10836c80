"""The options of generated text on the command line."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

import stratatune as st
import tiny
from stratatune.errors import ConfigError, DataError, ModelError


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A run that writes text: a tiny Llama, one epoch."""
    folder = tmp_path_factory.mktemp("writer")
    model = tiny.save_tiny_decoder(folder / "llama", "llama", blocks=2, initializer_range=0.2)
    rows = [{"text": f"question {n % 3} is", "answer": "yes it is good"} for n in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"objective": "completion", "text": "text", "label": "answer", "epochs": 1, "cache": "off"}
    st.train(model=model, plan="lora", train=folder / "rows.jsonl", out=str(folder / "run"), **settings)
    return folder / "run"


def written(say, run, *options):
    said = say("predict", run, "--text", "question 1 is", "--json", *options)
    assert said.code == 0, said.err
    return said.json["predictions"][0]["generated"]


def test_length(say, writer):
    short, long = (written(say, writer, "--max-new-tokens", count) for count in (2, 12))
    assert len(short.split()) <= 2 and long.startswith(short)


@pytest.mark.parametrize("text", ["question 1 is", "question 1 is yes " * 12])
def test_an_answer_ends_where_the_table_of_positions_does(text, say, tmp_path):
    """GPT-2 has a vector for each of so many positions; a text that fills them loses its beginning."""
    model = tiny.save_tiny_decoder(tmp_path / "gpt2", "gpt2", blocks=2, initializer_range=0.2, n_positions=24)
    rows = [{"text": f"question {n % 3} is", "answer": "yes it is good"} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"objective": "completion", "text": "text", "label": "answer", "epochs": 1, "cache": "off"}
    plan = "0: lora | prompt(tokens=3)"
    st.train(model=model, plan=plan, train=tmp_path / "rows.jsonl", out=str(tmp_path / "run"), **settings)
    said = say("predict", str(tmp_path / "run"), "--text", text, "--max-new-tokens", 500, "--json")
    assert said.code == 0, said.err
    assert isinstance(said.json["predictions"][0]["generated"], str)


def test_draws_depend_on_the_seed(say, writer):
    one, same, other = (written(say, writer, "--temperature", 5.0, "--seed", seed) for seed in (1, 1, 2))
    assert one == same != other
    assert written(say, writer, "--num-beams", 2)


def test_a_temperature_of_0_draws_nothing(say, writer):
    """As in other tools: the likeliest text, whatever else a script sets for its draws."""
    asked = ("--temperature", 0, "--top-p", 0.5, "--min-p", 0.1, "--seed", 3)
    assert written(say, writer, *asked) == written(say, writer, "--max-new-tokens", 64)
    assert st.Predictor(writer).predict(["question 1 is"], do_sample=True, temperature=0).columns["generated"] == [
        written(say, writer)
    ]


def test_further_options_are_those_of_generate(say, writer):
    """``min_p=1`` leaves the likeliest token alone; a penalty below 1 makes repetitions likelier than they were."""
    assert written(say, writer, "--min-p", 1, "--temperature", 5.0) == written(say, writer)
    plain, again = written(say, writer), written(say, writer, "--repetition-penalty", 0.01)
    assert again != plain and len(set(again.split())) <= len(set(plain.split()))


def test_python_takes_the_options_of_the_command(say, writer):
    predictor = st.Predictor(writer)

    def ask(**options):
        return predictor.predict(["question 1 is"], **options).columns["generated"][0]

    assert ask(max_new_tokens=3) == written(say, writer, "--max-new-tokens", 3)
    assert ask(num_beams=2) == written(say, writer, "--num-beams", 2)
    state = torch.get_rng_state()
    drawn = ask(temperature=5.0, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn == written(say, writer, "--temperature", 5.0, "--seed", 1)
    assert ask() == written(say, writer)  # they were those of one call
    assert ask(top_k=0, min_p=0, seed=1) == written(say, writer, "--top-k", 0, "--min-p", 0, "--seed", 1)


def test_top_k_of_0_draws_from_all_tokens(writer):
    predictor = st.Predictor(writer)

    def drawn(**options):
        asked = predictor.predict(["question 1 is"] * 200, max_new_tokens=1, temperature=1e5, seed=0, **options)
        return len(set(asked.columns["generated"]))

    assert drawn() <= 50  # transformers' own top_k, where the model has none
    assert drawn(top_k=0) > 50


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_token": 3}, "max_token: no such option of generated text.*did you mean 'max_new_tokens'"),
        ({"max_new_tokens": "3"}, "max_new_tokens: '3'; must be a whole number"),
        ({"num_beams": 1.5}, "num_beams: 1.5; must be a whole number"),
        ({"top_k": True}, "top_k: True; must be a whole number"),
        ({"temperature": float("nan")}, "temperature: nan; must be more than 0"),
        ({"top_p": 1.5}, "top_p: 1.5; must be at most 1"),
        ({"top_k": -1}, "top_k: -1; must be more than 0, or 0 for all tokens"),
        ({"min_p": 2}, "min_p: 2; must be at most 1"),
        ({"repetition_penalty": 0}, "repetition_penalty: 0; must be more than 0"),
        ({"do_sample": 1}, "do_sample: 1; legal: True, False"),
        ({"seed": -1}, "seed: -1; must be from 0"),
    ],
)
def test_options_in_python_that_are_none(options, said, writer):
    with pytest.raises(ConfigError, match=said) as error:
        st.Predictor(writer).predict(["question 1 is"], **options)
    assert "\n" not in str(error.value)


def test_a_model_that_gives_a_class_in_python(trained):
    with pytest.raises(ConfigError, match="max_new_tokens: this model learnt mlm and generates no text"):
        st.Predictor(trained).predict(["x"], max_new_tokens=3)


def test_prompts_of_generate_come_in_any_list(writer):
    predictor = st.Predictor(writer)
    ids = predictor.tokenizer("question 1 is", return_tensors="pt", add_special_tokens=False)["input_ids"]
    texts = np.array(["question 1 is"])
    of_texts, of_ids = predictor.generate(["question 1 is"]), predictor.generate(ids.tolist())
    assert predictor.generate(texts) == predictor.generate(pd.Series(texts, index=[7])) == of_texts
    assert predictor.generate(ids) == predictor.generate(ids.numpy()) == of_ids


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ("question 1 is", "one text was given"),
        (None, "None is not a list"),
        ([3, 4], "prompt 1 is 3"),
        (["question", None], "prompt 2 is None"),
        ([[]], "prompt 1 is []"),
        ([[{"role": "user", "content": "hi"}]], "prompt 1 is [{"),
    ],
)
def test_what_is_no_list_of_prompts(prompts, said, writer):
    with pytest.raises(DataError, match=re.escape(said)):
        st.Predictor(writer).generate(prompts)


def test_generate_of_a_model_that_gives_a_class(trained):
    with pytest.raises(ModelError, match="generates no text"):
        st.Predictor(trained).generate(["a film"])


def test_a_prompt_that_is_cut_is_told(say, writer):
    longest = st.Predictor(writer).objective.max_length
    said = say("predict", writer, "--text", "question 1 is", "--text", "question 1 is yes " * longest)
    assert f"1 of 2 prompts are longer than {longest} tokens and lose their beginning" in said.err


@pytest.mark.parametrize("option", [("--num-beams", 2), ("--do-sample",), ("--top-k", 3)])
def test_a_model_that_gives_a_class(option, say, trained):
    assert "this model learnt mlm and generates no text" in say("predict", trained, "--text", "x", *option).error


@pytest.mark.parametrize("option", [("--temperature", -1), ("--top-p", 1.5), ("--max-new-tokens", -1), ("--seed", -1)])
def test_values_that_are_none(option, say, writer):
    said = say("predict", writer, "--text", "x", *option)
    assert said.code == 2 and option[0].strip("-").replace("-", "_") in said.error
