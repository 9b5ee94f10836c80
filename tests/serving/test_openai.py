"""OpenAI's API over our tasks: the texts are those of ``predict``, whole, in pieces, and in OpenAI's own client."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from chats import said, save_chat_model, write_jsonl
from runs import rows, write_csv
from stratatune.app.predictions import output_of
from stratatune.serving.batching import Batcher, Request
from stratatune.serving.compute import Piece, answer
from stratatune.serving.counters import Counters
from stratatune.serving.generated import GeneratedText
from stratatune.serving.keys import Keys
from stratatune.serving.limits import Limits
from stratatune.serving.table import TaskTable
from stratatune.training.predict import Predictor

ASKED = {"the film": "was good", "a book": "she loves it", "that day": "very bad and long", "the city": "no"}
LONG = [{"role": "user", "content": "that day"}]


@pytest.fixture(scope="module")
def generating(tmp_path_factory):
    """A run of each kind: it answers in conversations, goes on after a prompt, gives vectors, names a class."""
    import stratatune as st

    folder = tmp_path_factory.mktemp("generating")
    base = str(save_chat_model(folder / "llama"))
    talks = [{"messages": said(("user", one), ("assistant", other))} for one, other in ASKED.items()]
    chat = write_jsonl(folder / "chat.jsonl", talks * 2)
    prompts = write_jsonl(folder / "prompts.jsonl", [{"a": one, "b": other} for one, other in ASKED.items()])
    pairs = zip(rows(24, 0), rows(24, 1), strict=True)
    vectors = write_csv(folder / "v.csv", [{"anchor": one["text"], "positive": two["text"]} for one, two in pairs])
    own = {"device": "cpu", "cache": "off", "precision": "fp32", "lr": 0.01, "warmup": 0, "batch_size": 4}
    learnt = {**own, "model": base, "plan": "embeddings full | : full | head(mlm=norm)", "epochs": 40}
    quick = {**own, "model": base, "plan": "1: full", "epochs": 1}
    st.train(**learnt, objective="chat", train=str(chat), out=str(folder / "chat"))
    st.train(**quick, objective="completion", train=str(prompts), text="a", label="b", out=str(folder / "completion"))
    st.train(**quick, objective="vectors(matryoshka=8)", train=str(vectors), out=str(folder / "vectors"))
    labelled = write_csv(folder / "c.csv", rows(24, 0))
    quick |= {"text": "text", "label": "label"}
    st.train(**quick, objective="classification", train=str(labelled), out=str(folder / "classes"))
    return {name: str(folder / name) for name in ("chat", "completion", "vectors", "classes")}


@pytest.fixture(scope="module")
def tasks(generating):
    table = TaskTable(10**6, device="cpu")
    for name, run in generating.items():
        table.add(name, run)
    return table


@pytest.fixture
def door(serve, tasks):
    return serve(table=tasks)


def predicted(run, texts, **options):
    return Predictor(run, device="cpu").predict(texts, **options).labels


def ask(door, path="chat/completions", **body):
    own = {"model": "chat", "messages": LONG} if path == "chat/completions" else {}
    return door.ask("POST", f"/v1/{path}", {**own, **body})


def events(found):
    """The objects of a stream, whose last line says that it is whole."""
    assert found.status == 200 and found.headers["content-type"].startswith("text/event-stream")
    lines = found.body.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def test_a_whole_answer_is_that_of_predict(door, generating):
    found = ask(door).json
    (choice,) = found["choices"]
    (expected,) = predicted(generating["chat"], [LONG])
    assert choice["message"] == {"role": "assistant", "content": expected, "refusal": None} and expected
    assert (found["object"], found["model"], choice["finish_reason"]) == ("chat.completion", "chat", "stop")
    usage, tokenizer = found["usage"], Predictor(generating["chat"], device="cpu").tokenizer
    assert usage["completion_tokens"] == len(tokenizer(expected, add_special_tokens=False).input_ids) + 1  # its end
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > usage["prompt_tokens"] > 2


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_limit_of_tokens(door, generating, limit):
    for field in ("max_tokens", "max_completion_tokens"):
        found = ask(door, **{field: limit}).json
        (choice,) = found["choices"]
        assert choice["message"]["content"] == predicted(generating["chat"], [LONG], max_new_tokens=limit)[0]
        assert (choice["finish_reason"], found["usage"]["completion_tokens"]) == ("length", limit)


def test_the_pieces_of_a_stream_are_the_whole_answer(door):
    whole = ask(door).json
    found = events(ask(door, stream=True, stream_options={"include_usage": True}))
    *pieces, usage = found
    deltas = [one["choices"][0]["delta"] for one in pieces]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    texts = [one["content"] for one in deltas[1:-1]]
    assert len(texts) > 2 and "".join(texts) == whole["choices"][0]["message"]["content"]
    assert pieces[-1]["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])
    assert len({one["id"] for one in found}) == 1 and {one["object"] for one in found} == {"chat.completion.chunk"}
    assert len(events(ask(door, stream=True))) == len(pieces)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_ends_before_a_stop(door, stream):
    (choice,) = ask(door).json["choices"]
    whole = choice["message"]["content"]
    first, _, rest = whole.partition(" ")
    for stop in (rest[:3], [rest[:3], "not there"]):
        found = ask(door, stop=stop, stream=stream)
        if stream:
            *pieces, last = events(found)
            text = "".join(one["choices"][0]["delta"]["content"] for one in pieces)
            reason = last["choices"][0]["finish_reason"]
        else:
            (choice,) = found.json["choices"]
            text, reason = choice["message"]["content"], choice["finish_reason"]
        assert (text, reason) == (f"{first} ", "stop")


def test_draws(door):
    asked = {"temperature": 5.0, "n": 4, "seed": 3, "max_tokens": 6}
    first, again, other = (
        [one["message"]["content"] for one in ask(door, **{**asked, "seed": seed}).json["choices"]]
        for seed in (3, 3, 4)
    )
    assert first == again != other and len(set(first)) > 1 and len(first) == 4
    streamed = ["", "", "", ""]
    for event in events(ask(door, **asked, stream=True)):
        (choice,) = event["choices"]
        streamed[choice["index"]] += choice["delta"].get("content", "")
    assert streamed == first
    greedy = ask(door, temperature=0, top_p=0.5, seed=1).json["choices"]
    assert greedy == ask(door).json["choices"]
    assert ask(door, temperature=5.0, min_p=1, seed=1).json["choices"] == greedy
    assert ask(door, repetition_penalty=0.01).json["choices"] != greedy
    whole = [ask(door, **asked, top_k=top_k, min_p=0).json["choices"] for top_k in (0, -1)]
    assert whole[0] == whole[1]


def test_completions(door, generating):
    prompts = ["the film", "a book"]
    expected = predicted(generating["completion"], prompts, max_new_tokens=4)
    found = ask(door, "completions", model="completion", prompt=prompts, max_tokens=4).json
    assert [one["text"] for one in found["choices"]] == expected and found["object"] == "text_completion"
    assert [one["index"] for one in found["choices"]] == [0, 1]
    pieces = events(ask(door, "completions", model="completion", prompt="a book", max_tokens=4, stream=True))
    assert "".join(one["choices"][0]["text"] for one in pieces) == expected[1]
    assert ask(door, "completions", model="chat", prompt="that day").json["choices"][0]["text"]  # a user's message
    said = ask(door, "completions", model="completion", prompt=prompts, stream=True)
    assert (said.status, said.error) == (422, "2 prompts; a stream answers one")


def test_embeddings(door, generating):
    texts = ["a red film", "the man", "a red film"]
    rows = list(output_of(Predictor(generating["vectors"], device="cpu").predict(texts)).answers())
    expected = np.array([row["vector"] for row in rows], np.float32)
    found = ask(door, "embeddings", model="vectors", input=texts).json
    assert np.allclose([one["embedding"] for one in found["data"]], expected, atol=2e-5)
    assert [one["index"] for one in found["data"]] == [0, 1, 2] and found["usage"]["prompt_tokens"] > 3
    coded = ask(door, "embeddings", model="vectors", input=texts[1], encoding_format="base64").json
    vector = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4")
    assert np.allclose(vector, expected[1], atol=2e-5)
    narrow = ask(door, "embeddings", model="vectors", input=texts[1], dimensions=8).json["data"][0]["embedding"]
    assert len(narrow) == 8 and np.linalg.norm(narrow) == pytest.approx(1)
    assert np.allclose(narrow, expected[1][:8] / np.linalg.norm(expected[1][:8]), atol=2e-5)
    said = ask(door, "embeddings", model="vectors", input="a", dimensions=7)
    assert (said.status, "learnt vectors of 8, " in said.error) == (422, True)


def test_models(door, generating):
    found = door.ask("GET", "/v1/models").json["data"]
    assert [one["id"] for one in found] == list(generating)
    assert door.ask("GET", "/v1/models/chat").json == found[0] and found[0]["object"] == "model"
    assert door.ask("GET", "/v1/models/chit").status == 404
    facts = {one["name"]: (one["generates"], one["conversations"]) for one in door.ask("GET", "/tasks").json["tasks"]}
    expected = {"chat": (True, True), "completion": (True, False)}
    assert facts == {**expected, "vectors": (False, False), "classes": (False, False)}


@pytest.mark.parametrize(
    ("path", "body", "status", "what"),
    [
        ("chat/completions", {"model": "chit"}, 404, "there is no task 'chit'"),
        ("chat/completions", {"model": "classes"}, 422, "task classes learnt classification and generates no text"),
        ("chat/completions", {"model": "completion"}, 422, "learnt completion and reads no conversations"),
        ("chat/completions", {"messages": []}, 422, "messages: "),
        ("chat/completions", {"messages": [{"content": "x"}]}, 422, "messages.0.role: "),
        ("chat/completions", {"messages": [{"role": "judge", "content": "x"}]}, 422, "message 1 is of 'judge'"),
        ("chat/completions", {"messages": [{"role": "user", "content": ""}]}, 422, "message 1, of the user, is empty"),
        ("chat/completions", {"messages": [{"role": "system", "content": "x"}]}, 422, "no message to answer"),
        ("chat/completions", {"messages": [*LONG, {"role": "assistant", "content": "x"}]}, 422, "the last message is"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x" * 20_001}]}, 422, "20,001 characters"),
        ("chat/completions", {"tools": [{"type": "function"}]}, 422, "tools: not supported"),
        ("chat/completions", {"logit_bias": {"5": 3}}, 422, "logit_bias: not supported"),
        ("chat/completions", {"max_tokens": 2000}, 422, "max_new_tokens: 2000"),
        ("chat/completions", {"max_tokens": -1}, 422, "max_new_tokens: -1; must be more than 0"),
        ("chat/completions", {"temperature": -1}, 422, "temperature: -1.0; must be more than 0"),
        ("chat/completions", {"top_p": 2}, 422, "top_p: 2.0; must be at most 1"),
        ("chat/completions", {"n": 3}, 422, "n: 3; without a temperature all answers are the same"),
        ("chat/completions", {"n": 0}, 422, "n: "),
        ("chat/completions", {"n": 2, "temperature": 0, "top_p": 0.5}, 422, "n: 2; without a temperature"),
        ("chat/completions", {"n": 10**12, "temperature": 1}, 422, "1000000000000 answers"),
        ("chat/completions", {"max_tokens": 0}, 422, "max_new_tokens: 0; must be more than 0"),
        ("chat/completions", {"max_completion_tokens": 0}, 422, "max_new_tokens: 0; must be more than 0"),
        ("chat/completions", {"temperature": float("nan")}, 422, "temperature: nan; must be more than 0"),
        ("chat/completions", {"temperature": 1e30}, 422, "temperature: 1e+30; must be less than 1000000"),
        ("chat/completions", {"reasoning_effort": "low"}, 422, "reasoning_effort: not supported"),
        ("chat/completions", {"best_of": 2}, 422, "best_of: not supported"),
        ("chat/completions", {"messages": [{**LONG[0], "name": "\ud800"}]}, 422, "text 1 holds half of a surrogate"),
        ("chat/completions", {"messages": [{**LONG[0], "tool_calls": 5}]}, 422, "messages.0.tool_calls: "),
        ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 422, "'image_url'"),
        ("chat/completions", {"stop": ["a", "b", "c", "d", "e"]}, 422, "stop."),
        ("completions", {"model": "completion", "prompt": ""}, 422, "text 1 is empty"),
        ("completions", {"model": "completion", "prompt": "a", "echo": True}, 422, "echo: not supported"),
        ("completions", {"model": "vectors", "prompt": "a"}, 422, "learnt vectors and generates no text"),
        ("embeddings", {"model": "chat", "input": "a"}, 422, "learnt chat and gives no vectors"),
        ("completions", {"model": "completion", "prompt": [5, 6]}, 422, "prompt: token ids are not read, send texts"),
        ("embeddings", {"model": "vectors", "input": [[5, 6]]}, 422, "input: token ids are not read, send texts"),
        ("embeddings", {"model": "vectors", "input": "a", "input_type": "query"}, 422, "input_type: not supported"),
        ("embeddings", {"model": "vectors", "input": []}, 422, "input."),
        ("embeddings", {"model": "vectors", "input": "a", "encoding_format": "int8"}, 422, "encoding_format: "),
    ],
)
def test_what_is_refused(door, path, body, status, what):
    for stream in (False, True) if path != "embeddings" else (False,):
        said = ask(door, path, **body, **({"stream": True} if stream else {}))
        assert said.status == status and what in said.error, said.json
        assert said.json["error"]["hint"] or "; " in said.error or ":" in said.error
        assert "rows" not in said.json["error"]["hint"]  # that a command may leave out


def test_fields_that_change_nothing(door):
    plain = ask(door).json["choices"]
    more = {"user": "me", "store": True, "frequency_penalty": 0, "logprobs": False, "tools": [], "stop": None, "n": 1}
    more |= {"best_of": 1, "function_call": "none", "reasoning_effort": "none", "top_p": 1, "temperature": None}
    more |= {"max_tokens": None, "stream_options": None, "seed": 1, "repetition_penalty": 1, "min_p": 0}
    assert ask(door, **more, response_format={"type": "text"}).json["choices"] == plain
    for top_k in (0, -1):
        assert ask(door, **more, top_k=top_k).json["choices"] == plain
    assert ask(door, temperature=1e-8).json["choices"] == plain
    usage = ask(door, stream=True, stream_options={"include_usage": None})
    assert all(one["choices"] for one in events(usage))


def test_messages_as_clients_send_them(door, generating):
    """Parts of text, fields of a message that came back from a client, and the role that replaced ``system``."""
    empty = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "tool_calls"))
    talk = [
        {"role": "developer", "content": "the man"},
        {"role": "user", "content": [{"type": "text", "text": "that day"}], "name": "me"},
        {"role": "assistant", "content": "very bad", **empty},
        {"role": "user", "content": "a book"},
    ]
    plain = said(("system", "the man"), ("user", "that day"), ("assistant", "very bad"), ("user", "a book"))
    expected = predicted(generating["chat"], [plain], max_new_tokens=5)
    (choice,) = ask(door, messages=talk, max_tokens=5).json["choices"]
    assert [choice["message"]["content"]] == expected


def test_a_reward_model_reads_conversations(serve, generating, tmp_path):
    import stratatune as st

    rows = [
        {"prompt": said(("user", one)), "chosen": said(("assistant", other)), "rejected": said(("assistant", "yes"))}
        for one, other in ASKED.items()
    ]
    train, base = str(write_jsonl(tmp_path / "x.jsonl", rows)), str(Path(generating["chat"]).parent / "llama")
    run = str(tmp_path / "reward")
    st.train(model=base, objective="rank", train=train, plan="1: full", epochs=1, device="cpu", cache="off", out=run)
    table = TaskTable(10**6, device="cpu")
    table.add("reward", run)
    door, talks = serve(table=table), [row["prompt"] + row["chosen"] for row in rows]
    found = door.ask("POST", "/tasks/reward/predict", {"texts": talks}).json["answers"]
    expected = Predictor(run, device="cpu").predict(talks).columns["score"]
    assert [row["score"] for row in found] == pytest.approx(expected, abs=1e-5)
    assert door.ask("GET", "/tasks").json["tasks"][0]["conversations"]
    refused = door.ask("POST", "/v1/chat/completions", {"model": "reward", "messages": LONG})
    assert refused.status == 422 and "generates no text" in refused.error


def test_conversations_and_options_in_predict(door, generating):
    other = [*LONG, {"role": "assistant", "content": "very bad"}, {"role": "user", "content": "a book"}]
    texts = [LONG, other, LONG]
    expected = predicted(generating["chat"], texts, max_new_tokens=3)
    found = door.ask("POST", "/tasks/chat/predict", {"texts": texts, "generation": {"max_new_tokens": 3}}).json
    assert [row["generated"] for row in found["answers"]] == expected
    every = door.predict(texts).json["answers"]
    assert list(every) == ["chat"] and [row["generated"] for row in every["chat"]] == predicted(
        generating["chat"], texts
    )
    given = {"texts": ["the film"], "generation": {"max_new_tokens": 2}}
    found = door.ask("POST", "/predict", given).json["answers"]
    assert list(found) == ["chat", "completion"]
    assert found["completion"][0]["generated"] == predicted(generating["completion"], ["the film"], max_new_tokens=2)[0]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({"texts": [LONG], "tasks": ["classes"]}, "task classes reads single texts"),
        ({"texts": [LONG, "a"], "tasks": ["chat"]}, "text 2: conversations and single texts are mixed"),
        ({"texts": [[{"text": "a"}]], "tasks": ["chat"]}, "texts.0."),
        ({"texts": [["a", "b"]], "tasks": ["chat"]}, "task chat reads single texts and conversations"),
        ({"texts": ["a"], "tasks": ["classes"], "generation": {"top_k": 2}}, "learnt classification and generates no"),
        ({"texts": ["a"], "generation": {"max_new_token": 2}}, "max_new_token: no such option"),
        ({"texts": ["a"], "generation": {"max_new_tokens": 1025}}, "max_new_tokens: 1025"),
        ({"texts": ["a"], "generation": {"temperature": 1e-40}}, "temperature: 1e-40; must be at least 0.00001"),
        ({"texts": ["a"], "generation": {"num_beams": 65}}, "num_beams: 65"),
        ({"texts": [["a", "b"]], "generation": {"top_k": 2}}, "no task generates text from pairs"),
    ],
)
def test_what_predict_refuses(door, body, what):
    said = door.ask("POST", "/predict", body)
    assert said.status == 422 and what in said.error, said.json


def test_a_seed_draws_for_all_texts_of_a_request(door, generating):
    """More texts than a piece of a request holds are drawn as `predict` draws them."""
    options = {"seed": 3, "temperature": 5.0, "max_new_tokens": 2}
    found = door.ask("POST", "/tasks/chat/predict", {"texts": ["that day"] * 18, "generation": options}).json
    expected = predicted(generating["chat"], ["that day"] * 18, **options)
    assert [row["generated"] for row in found["answers"]] == expected


@pytest.mark.parametrize("stream", [False, True])
def test_a_text_that_does_not_fit_is_refused(door, generating, stream):
    """`predict` reads the end of such a text with a notice, for which OpenAI's answers have no place."""
    longest = Predictor(generating["chat"], device="cpu").objective.max_length
    long = [{"role": "user", "content": "the film was good " * longest}]
    said = ask(door, messages=long, stream=stream)
    assert said.status == 422 and f"tokens, and task chat reads {longest}" in said.error
    assert ask(door, stream=stream).status == 200
    said = ask(door, "completions", model="completion", prompt="the film was good " * longest, stream=stream)
    assert said.status == 422 and "and task completion reads" in said.error
    texts = {"texts": [long, LONG]}
    assert door.ask("POST", "/tasks/chat/predict", texts).json["answers"][0]["generated"]


def test_the_limit_of_a_server_is_the_default(serve, tasks, generating):
    (choice,) = ask(serve(table=tasks, new_tokens=2)).json["choices"]
    assert choice["message"]["content"] == predicted(generating["chat"], [LONG], max_new_tokens=2)[0]
    assert choice["finish_reason"] == "length"


def test_answers_are_computed_together(tasks, monkeypatch):
    """Streams and whole answers of several requests are one batch of the model, and each hears its own."""
    from transformers import GenerationMixin

    batches, plain = [], GenerationMixin.generate

    def counted(self, ids, **settings):
        batches.append(len(ids))
        return plain(self, ids, **settings)

    monkeypatch.setattr(GenerationMixin, "generate", counted)
    heard = {name: [] for name in ASKED}
    pieces = [
        Piece([[{"role": "user", "content": name}]], [tasks.named("chat")], [GeneratedText(hear=heard[name].append)])
        for name in ASKED
    ]
    same = Piece(pieces[0].texts, pieces[0].tasks)
    answer([*pieces, same], {})
    assert batches == [len(ASKED)]
    assert [piece.error for piece in pieces] == [None] * len(pieces)
    for name, piece in zip(ASKED, pieces, strict=True):
        assert "".join(heard[name]) == piece.rows["chat"][0]["generated"] == piece.written[0].text
    assert same.rows == pieces[0].rows and same.written[0].tokens == pieces[0].written[0].tokens


def test_equal_texts_have_their_own_stops(tasks):
    """One is generated for both, and each counts its own tokens."""
    (whole,) = predicted(tasks.named("chat").run, [LONG])
    written = [GeneratedText([whole[4:8]]), GeneratedText()]
    answer([Piece([LONG, LONG], [tasks.named("chat")], written)], {})
    assert [one.text for one in written] == [whole[:4], whole]
    assert written[0].tokens < written[1].tokens and [one.reason for one in written] == ["stop", "stop"]


def test_an_error_belongs_to_those_who_have_not_their_answers(tasks, monkeypatch):
    """Whole answers stay; what no client has read a part of is computed once more, and by itself."""
    from stratatune.serving.task import Task

    plain, failures = Task.answers, []

    def failing(self, table, data, trunk, written, options, *rest):
        found = plain(self, table, data, trunk, written, options, *rest)
        if options.get("max_new_tokens") == 30 and not failures:
            failures.append(len(written))
            raise MemoryError("no room")
        return found

    monkeypatch.setattr(Task, "answers", failing)
    task, (whole,) = tasks.named("chat"), predicted(tasks.named("chat").run, [LONG])
    done = Piece([LONG], [task], [GeneratedText(hear=lambda _: None)])
    read = Piece([LONG], [task], [GeneratedText(hear=lambda _: None)], {"max_new_tokens": 30})
    unread = Piece([LONG], [task], [GeneratedText([whole[4:8]])], {"max_new_tokens": 30})
    answer([done, read, unread], {})
    assert failures == [2]
    assert done.error is None and done.rows["chat"][0]["generated"] == done.written[0].text == whole
    assert isinstance(read.error, MemoryError)
    assert unread.error is None and (unread.written[0].text, unread.written[0].reason) == (whole[:4], "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_the_queue_is_not_answered(serve, tasks, monkeypatch, stream):
    """A request whose client leaves before it has anything of the answer leaves the queue with it."""
    begun, may_go_on, plain = threading.Event(), threading.Event(), GeneratedText.began

    def began(self, tokens, lost=0):
        begun.set()
        may_go_on.wait(60)
        plain(self, tokens)

    def until(waiting):
        for _ in range(3000):
            if door.counter("stratatune_queue_answers") == waiting:
                return True
            time.sleep(0.01)
        return False

    monkeypatch.setattr(GeneratedText, "began", began)
    door = serve(table=tasks)
    first = threading.Thread(target=ask, args=(door,), kwargs={"max_tokens": 1})
    first.start()
    try:
        assert begun.wait(60)
        with contextlib.closing(door.connect()) as line:
            body = {"model": "chat", "messages": LONG, "stream": stream}
            line.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
            assert until(1)
        assert until(0)
    finally:
        may_go_on.set()
        first.join()
    assert door.counter('stratatune_requests_total{route="/v1/chat/completions",status="499"}') == 1
    assert ask(door, max_tokens=1).status == 200


def test_nothing_is_generated_for_clients_that_have_gone(tasks):
    """An answer ends when its client goes; the others of its batch go on."""
    written = [GeneratedText(hear=lambda _: None) for _ in range(2)]
    seen = []
    written[0].gone = lambda: len(seen) > 1
    written[1].hear = seen.append
    written[0].hear = seen.append
    piece = Piece([LONG, [{"role": "user", "content": "a book"}]], [tasks.named("chat")], written)
    answer([piece], {})
    assert piece.error is None and written[0].tokens < written[1].tokens
    assert written[1].text == piece.rows["chat"][1]["generated"] and written[1].reason == "stop"
    assert written[0].reason == "length"


def test_a_stream_that_is_closed_frees_the_server(serve, tasks, monkeypatch):
    """The model stops at the token after its client has left, far from the end of the answer."""
    read, noticed, ended = threading.Event(), threading.Event(), []
    plain = {"wrote": GeneratedText.wrote, "ended": GeneratedText.ended}

    def wrote(self, text):
        if self.text and read.wait(60):  # the first piece has been read, and the client is gone
            for _ in range(6000):
                if self.gone() or noticed.wait(0.01):
                    break
            noticed.set()
        return plain["wrote"](self, text)

    def ending(self, text, tokens, *, closed):
        ended.append((self.gone(), tokens))
        plain["ended"](self, text, tokens, closed=closed)

    monkeypatch.setattr(GeneratedText, "wrote", wrote)
    monkeypatch.setattr(GeneratedText, "ended", ending)
    door = serve(table=tasks)
    with contextlib.closing(door.connect()) as line:
        body = {"model": "chat", "messages": LONG, "stream": True}
        line.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        with line.getresponse() as found:
            assert b'"content": "v"' in b"".join(found.readline() for _ in range(4))
    read.set()
    assert ask(door, max_tokens=1).status == 200
    assert ended[0] == (True, 2) and len(ended) == 2
    assert door.counter("stratatune_queue_answers") == 0


def test_others_are_answered_between_two_tokens(tasks, generating):
    """Who asks for a class does not wait for a text, and gets the numbers of any other time."""
    batcher = Batcher(tasks, Limits(), Counters())
    chat, classes = tasks.named("chat"), tasks.named("classes")
    quick, seen, texts = [], [], ["a good film", "the man was sad", "a good film"]

    class Asking(GeneratedText):
        def wrote(self, text):
            if not quick:
                quick.append(Request(texts, [classes]))
                batcher.submit(quick[0])
            seen.append(quick[0].answers.done())
            return super().wrote(text)

    request = Request([LONG, [{"role": "user", "content": "a book"}]], [chat], [Asking(), GeneratedText()])
    plain = chat.predictor.forward
    chat.predictor.forward = replace(plain, autocast=torch.bfloat16)  # which is not that of the other task
    try:
        batcher.submit(request)
        batcher.start()
        assert request.answers.result(60)["chat"][0]["generated"]
    finally:
        chat.predictor.forward = plain
        batcher.stop()
    assert seen[:2] == [False, True] and len(seen) > 2
    expected = output_of(Predictor(generating["classes"], device="cpu").predict(texts)).answers()
    for found, wanted in zip(quick[0].answers.result(0)["classes"], expected, strict=True):
        assert found == pytest.approx(wanted, abs=2e-6)


def test_text_does_not_wait_for_ever(tasks):
    """While others ask without an end, text is generated in turns with them."""
    batcher = Batcher(tasks, Limits(), Counters())
    quick = [Request(["a good film"], [tasks.named("classes")]) for _ in range(3)]
    text = Request([LONG], [tasks.named("chat")])
    for request in (*quick, text):
        batcher.submit(request)
    taken = [batcher._next() for _ in range(2)]
    assert sorted(len(requests) for requests, _ in taken) == [1, 3] and batcher.waiting == 0


def test_an_answer_has_room_where_nothing_is_said(tasks):
    """Without `max_tokens` an answer fits the model's positions beside the longest text, whatever the text."""
    task = tasks.named("chat")
    positions, longest = task.predictor.model.config.max_position_embeddings, task.objective.max_length
    assert task.new_tokens(10) == 10
    assert task.new_tokens(10**6) == max(64, positions - longest)


def test_a_key_is_asked_for(serve, tasks):
    door = serve(Keys(users=("k" * 20,)), tasks)
    assert ask(door).status == 401
    assert door.ask("GET", "/v1/models", authorization=f"Bearer {'k' * 20}").status == 200


def test_an_error_while_generating_ends_the_stream(serve, tasks, monkeypatch):
    """What the client has read stays, and the error follows it."""
    plain = GeneratedText.wrote

    def failing(self, text):
        wanted = plain(self, text)
        if self.text:
            raise MemoryError("no room")
        return wanted

    monkeypatch.setattr(GeneratedText, "wrote", failing)
    found = ask(serve(table=tasks), stream=True)
    *pieces, last = found.body.decode().strip().split("\n\n")
    assert "error" in json.loads(last.removeprefix("data: ")) and len(pieces) >= 2


class TestPieces:
    """A `GeneratedText` hears texts that grow, and passes on what cannot change any more."""

    def heard(self, texts, stop=()):
        pieces = []
        one = GeneratedText(stop, pieces.append)
        one.began(3)
        heard = next(
            (at for at, text in enumerate(texts[:-1]) if not one.wrote(lambda text=text: text)), len(texts) - 1
        )
        one.ended(texts[heard], heard + 1, closed=heard == len(texts) - 1)
        return pieces, one

    def test_half_of_a_character_waits(self):
        pieces, one = self.heard(["a", "a \ufffd", "a \u00e9", "a \u00e9t"])
        assert pieces == ["a", " \u00e9", "t"] and one.text == "a \u00e9t" and one.reason == "stop"

    def test_the_beginning_of_a_stop_waits(self):
        pieces, one = self.heard(["x", "x##", "x## y", "x## y##", "x## y##!", "never"], ["##!"])
        assert pieces == ["x", "## y"] and (one.text, one.reason) == ("x## y", "stop")

    def test_what_is_written_after_a_revision_is_heard(self):
        pieces, one = self.heard(["a do n", "a don't", "a don't go", "a don't go on"])
        assert pieces == ["a do n", "t", " go", " on"] and one.text == "a don't go on"

    def test_a_last_blank_is_kept(self):
        pieces, one = self.heard(["x", "x ", "x \n"])
        assert "".join(pieces) == one.text == "x \n"


def test_the_client_of_openai(door, generating):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{door.port}/v1", api_key="none", max_retries=0)
    assert [one.id for one in client.models.list()] == list(generating)
    (expected,) = predicted(generating["chat"], [LONG])
    found = client.chat.completions.create(model="chat", messages=LONG)
    assert found.choices[0].message.content == expected
    stream = client.chat.completions.create(model="chat", messages=LONG, stream=True)
    assert "".join(one.choices[0].delta.content or "" for one in stream) == expected
    vector = client.embeddings.create(model="vectors", input="a red film").data[0].embedding  # base64 on the wire
    rows = list(output_of(Predictor(generating["vectors"], device="cpu").predict(["a red film"])).answers())
    assert np.allclose(vector, rows[0]["vector"], atol=2e-5)
    text = client.completions.create(model="completion", prompt="a book", max_tokens=4).choices[0].text
    assert text == predicted(generating["completion"], ["a book"], max_new_tokens=4)[0]
    with pytest.raises(openai.NotFoundError, match="there is no task 'chit'") as missing:
        client.chat.completions.create(model="chit", messages=LONG)
    assert (missing.value.type, missing.value.code) == ("invalid_request_error", "model_not_found")
    with pytest.raises(openai.UnprocessableEntityError, match="tools: not supported"):
        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        client.chat.completions.create(model="chat", messages=LONG, tools=[tool])
