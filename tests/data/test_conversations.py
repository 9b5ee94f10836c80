"""Conversations come out of every layout alike, and what is wrong with a row is one line."""

from __future__ import annotations

import importlib.util
import json

import datasets
import numpy as np
import pandas as pd
import pytest

from chats import said, write_jsonl
from stratatune.data.conversations import CONVERSATIONS, read_conversations
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import read
from stratatune.data.written import Written
from stratatune.errors import DataError

ORDERED = hasattr(datasets, "Json")
"""Such versions of datasets keep objects of several forms as JSON; earlier ones sort keys and lose empty objects."""
TWO = said(("user", "the film"), ("assistant", "was good"))
FOUR = [*TWO, *said(("user", "she"), ("assistant", "loves it"))]


def messages(table):
    return [one.messages for one in table.further[CONVERSATIONS]]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TWO},
        {"conversations": [{"from": "human", "value": "the film"}, {"from": "gpt", "value": "was good"}]},
        {"conversation": said(("User", "the film"), ("model", "was good"))},
        {"messages": {"role": ["user", "assistant"], "content": ["the film", "was good"]}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "the film"}]}, TWO[1]]},
        {"messages": json.dumps(TWO)},
        {"prompt": "the film", "completion": "was good"},
        {"prompt": TWO[:1], "completion": TWO[1:]},
        {"prompt": TWO[:1], "completion": "was good"},
        {"instruction": "the film", "input": "", "output": "was good"},
        {"instruction": "the film", "context": None, "response": "was good"},
        {"question": "the film", "answer": "was good"},
    ],
)
def test_every_layout_is_the_same_conversation(row, tmp_path):
    table = read_conversations(write_jsonl(tmp_path / "x.jsonl", [row]))
    assert messages(table) == [TWO] and table.labels == ["was good"]
    assert table.further[CONVERSATIONS][0].learnt == (1,)


def test_named_columns_frames_and_lists(tmp_path):
    frame = pd.DataFrame({"ask": ["the film"], "say": ["was good"]})
    assert messages(read_conversations(frame, ReadOptions(text=["ask"], label="say"))) == [TWO]
    assert messages(read_conversations(pd.DataFrame({"messages": [np.array(TWO, object)]}))) == [TWO]
    assert messages(read_conversations([TWO, FOUR])) == [TWO, FOUR]
    csv = tmp_path / "x.csv"
    pd.DataFrame({"messages": [json.dumps(FOUR)]}).to_csv(csv, index=False)
    assert messages(read_conversations(csv)) == [FOUR]
    parquet = tmp_path / "x.parquet"
    pd.DataFrame({"messages": [TWO, FOUR]}).to_parquet(parquet)
    assert messages(read_conversations(parquet)) == [TWO, FOUR]


def test_alpacas_input_and_a_system_column_take_part(tmp_path):
    row = {"instruction": "translate", "input": "the film", "output": "x", "system": "a book"}
    (found,) = messages(read_conversations(write_jsonl(tmp_path / "x.jsonl", [row])))
    assert found == said(("system", "a book"), ("user", "translate\n\nthe film"), ("assistant", "x"))


@pytest.mark.parametrize("history", [[["a book", "it was"]], '[["a book", "it was"]]'])
def test_alpacas_earlier_turns_come_first_and_are_learnt(history, tmp_path):
    row = {"instruction": "the film", "input": "", "output": "was good", "system": "she", "history": history}
    (found,) = read_conversations(write_jsonl(tmp_path / "x.jsonl", [row])).further[CONVERSATIONS]
    assert found.messages == said(("system", "she"), ("user", "a book"), ("assistant", "it was")) + TWO
    assert found.learnt == (2, 4)
    for none in (None, "", []):
        assert messages(read_conversations(write_jsonl(tmp_path / "x.jsonl", [{**row, "system": "", "history": none}])))
    for odd in ([["a book"]], ["a book"], [["a book", ""]], {"a book": "it was"}, 5, "5", '"a book"'):
        with pytest.raises(DataError, match="row 1: column 'history' holds .*, not pairs of texts"):
            read_conversations(write_jsonl(tmp_path / "x.jsonl", [{**row, "history": odd}]))
    with pytest.raises(DataError, match="row 1: column 'history' is no JSON"):
        read_conversations(write_jsonl(tmp_path / "x.jsonl", [{**row, "history": "a book"}]))


def test_what_is_learnt(tmp_path):
    """A prompt's own answers are given, what has weight 0 is not learnt, and nothing is read behind the last answer."""

    def learnt(row):
        (found,) = read_conversations(write_jsonl(tmp_path / "x.jsonl", [row])).further[CONVERSATIONS]
        return found.learnt, len(found.messages)

    assert learnt({"messages": FOUR}) == ((1, 3), 4)
    assert learnt({"messages": [*FOUR, {"role": "user", "content": "so"}]}) == ((1, 3), 4)
    assert learnt({"prompt": FOUR[:3], "completion": FOUR[3:]}) == ((3,), 4)
    assert learnt({"messages": [FOUR[0], {**FOUR[1], "weight": 0}, *FOUR[2:]]}) == ((3,), 4)
    assert learnt({"messages": [*FOUR[:3], {**FOUR[3], "weight": 0}]}) == ((1,), 2)
    assert learnt({"messages": [FOUR[0], {**FOUR[1], "train": False}, *FOUR[2:3], {**FOUR[3], "train": True}]}) == (
        (3,),
        4,
    )


def test_without_answers_the_last_message_is_to_be_answered(tmp_path):
    table = read_conversations([TWO, FOUR[:3]], ReadOptions(need_labels=False))
    assert messages(table) == [TWO[:1], FOUR[:3]] and table.labels is None
    table = read_conversations(["the film", "she"], ReadOptions(text=["messages"], need_labels=False))
    assert messages(table) == [said(("user", "the film")), said(("user", "she"))]
    assert all(one.is_text for one in table.further[CONVERSATIONS])
    path = write_jsonl(tmp_path / "x.jsonl", [{"text": "the film"}])
    assert messages(read_conversations(path, ReadOptions(text=["messages"], need_labels=False))) == [
        said(("user", "the film"))
    ]


TOOLS = [{"type": "function", "function": {"name": "look"}}]


def test_tools_and_further_keys_reach_the_template(tmp_path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}
    found = {"role": "tool", "content": "3", "tool_call_id": "a", "name": None}
    row = {"messages": [FOUR[0], call, found, FOUR[1]], "tools": json.dumps(TOOLS)}
    (one,) = read_conversations(write_jsonl(tmp_path / "x.jsonl", [row])).further[CONVERSATIONS]
    assert one.tools == TOOLS and one.learnt == (1, 3)
    assert one.messages[1] == {**call, "content": ""} and "name" not in one.messages[2]


@pytest.mark.parametrize("empty", [None, "", " ", [], "[]", "null", float("nan")])
def test_a_row_may_have_no_tools(empty):
    frame = pd.DataFrame({"messages": [TWO, TWO], "tools": pd.Series([empty, json.dumps(TOOLS)], dtype=object)})
    first, second = read_conversations(frame).further[CONVERSATIONS]
    assert first.tools is None and second.tools == TOOLS


def test_tools_of_an_array_reach_the_template():
    frame = pd.DataFrame({"messages": [TWO], "tools": [np.array([*TOOLS, *TOOLS], object)]})
    assert read_conversations(frame).further[CONVERSATIONS][0].tools == [*TOOLS, *TOOLS]


BESIDE = {
    "column 'tools' is no JSON: Expecting": {"messages": TWO, "tools": "[{broken"},
    "column 'tools' holds an object, not a list of tools": {"messages": TWO, "tools": json.dumps(TOOLS[0])},
    "column 'tools' holds the value 7, not a list of tools": {"messages": TWO, "tools": 7},
    "the system prompt is a list, not a text": {"messages": TWO, "system": ["be kind"]},
    "what follows 'instruction' is a list, not a text": {"instruction": "add", "input": [1, 2], "output": "3"},
}


@pytest.mark.parametrize("what", BESIDE)
def test_nothing_beside_a_conversation_is_left_out_without_a_word(what, tmp_path):
    with pytest.raises(DataError) as caught:
        read_conversations(write_jsonl(tmp_path / "x.jsonl", [BESIDE[what]]))
    assert what in caught.value.message and ", row 1: " in caught.value.message


def test_numbers_beside_a_conversation_are_texts(tmp_path):
    row = {"instruction": "double it", "input": 4, "output": 8}
    floats = {**row, "input": 4.0, "output": 8.0}  # as a data frame has them beside a gap
    assert messages(read_conversations([floats])) == messages(read_conversations([row]))
    assert messages(read_conversations(write_jsonl(tmp_path / "x.jsonl", [row]))) == [
        said(("user", "double it\n\n4"), ("assistant", "8"))
    ]


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"conversations": [{"from": "human", "value": "the film"}, {"from": "gpt", "value": "was good"}]}, {}),
        ({"question": "the film", "answer": "was good"}, {}),
        ({"messages": TWO}, {"text": ["instruction"], "label": "output"}),
    ],
)
def test_data_of_another_layout_than_those_of_training(row, asked, tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", [row])
    assert messages(read_conversations(path, ReadOptions(**{"text": ["messages"], **asked}))) == [TWO]


BAD = {
    "there is no message of an assistant": [FOUR[0]],
    "there is no message of a user before the assistant's": FOUR[1:2],
    "message 2, of 'function_call', is no JSON": [FOUR[0], {"from": "function_call", "value": "look up"}],
    "message 2, of 'function_call', holds no call with a name": [FOUR[0], {"from": "function_call", "value": "{}"}],
    "message 2 is of 'critic'": [FOUR[0], {"role": "critic", "content": "a"}],
    "message 2, of the assistant, is empty": [FOUR[0], {"role": "assistant", "content": " "}],
    "message 2 is a text without a role": [FOUR[0], "was good"],
    "message 1 holds a part 'image_url'": [{"role": "user", "content": [{"type": "image_url"}]}, FOUR[1]],
    "message 1 holds the value 3, not a text": [{"role": "user", "content": 3}, FOUR[1]],
    "message 2 has weight 2": [FOUR[0], {**FOUR[1], "weight": 2}],
    "every message of the assistant has weight 0": [FOUR[0], {**FOUR[1], "weight": 0}],
    "holds lists of different lengths: 2 of 'role', 1 of 'content'": {"role": ["user", "assistant"], "content": ["a"]},
    "column 'messages' holds a text, not a list of messages": "the film",
    "column 'messages' is missing or empty": None,
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_row_is_one_line_or_is_left_out(what, tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", [{"messages": TWO}, {"messages": BAD[what]}])
    with pytest.raises(DataError) as caught:
        read_conversations(path)
    assert what in caught.value.message and ", row 2: " in caught.value.message and "\n" not in str(caught.value)
    table = read_conversations(path, ReadOptions(written=Written(bad_rows="skip")))
    assert messages(table) == [TWO] and "1 of 2 rows are left out (row 2: " in table.notices[0]
    with pytest.raises(DataError, match="no row holds a conversation"):
        read_conversations(write_jsonl(path, [{"messages": BAD[what]}]), ReadOptions(written=Written(bad_rows="skip")))


@pytest.mark.parametrize(
    ("row", "asked", "what"),
    [
        ({"a": "x", "b": "y"}, {}, "which column holds the conversations? columns: a, b"),
        ({"prompt": "x", "b": "y"}, {}, "which column holds the conversations"),
        ({"messages": TWO}, {"text": ["mesages"]}, "no column 'mesages'"),
        ({"prompt": "x", "b": "y"}, {"text": ["prompt"], "label": "c"}, "no column 'c'"),
        ({"prompt": "x", "completion": "y"}, {"text": ["prompt", "completion"]}, "2 text columns were named"),
    ],
)
def test_columns_in_doubt(row, asked, what, tmp_path):
    with pytest.raises(DataError) as caught:
        read_conversations(write_jsonl(tmp_path / "x.jsonl", [row]), ReadOptions(**asked))
    assert what in str(caught.value)


@pytest.mark.parametrize("asked", [{}, {"text": "messages"}])
def test_other_objectives_get_a_hint(asked, tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", [{"messages": TWO, "label": "a"}])
    with pytest.raises(DataError) as caught:
        read(path, ReadOptions(label="label", **asked))
    assert 'objective="chat"' in caught.value.hint


def test_arguments_in_json_are_read():
    """As OpenAI's files have them; what is no JSON stays a text."""

    def call(arguments):
        return {"type": "function", "function": {"name": "weather", "arguments": arguments}}

    def row(arguments):
        told = [{"role": "user", "content": "the weather?"}, {"role": "assistant", "tool_calls": [call(arguments)]}]
        return {"messages": told}

    table = read_conversations([row('{"city": "Paris"}'), row({"city": "Paris"}), row("Paris, today")])
    found = [one.messages[-1]["tool_calls"][0]["function"] for one in table.further[CONVERSATIONS]]
    assert [one["arguments"] for one in found] == [{"city": "Paris"}, {"city": "Paris"}, "Paris, today"]
    assert found[0]["name"] == "weather"


def test_keys_that_arrow_fills_in_are_not_there(tmp_path):
    """Arrow gives every object of a column the keys of all; a template would write those that are null."""

    def row(call, parameters, **more):
        function = {"name": "look", "arguments": call}
        asked = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
        tool = {"type": "function", "function": {"name": "look", "parameters": parameters, **more}}
        return {"messages": [TWO[0], asked], "tools": [tool]}

    rows = [
        row({"city": "Paris"}, {"type": "object", "properties": {"city": {"type": "string"}}}),
        row(
            {"unit": "C", "days": [1, 2]}, {"type": "object", "properties": {"unit": {"enum": ["C", "F"]}}}, strict=True
        ),
        {"messages": TWO, "tools": None},
    ]
    path, parquet = write_jsonl(tmp_path / "x.jsonl", rows), tmp_path / "x.parquet"
    data = datasets.Dataset.from_list(rows)
    data.to_parquet(parquet)
    data.save_to_disk(tmp_path / "saved")
    assert data[0]["messages"][1]["tool_calls"][0]["function"]["arguments"]["unit"] is None

    def written(source):
        found = read_conversations(source).further[CONVERSATIONS]
        return [json.dumps([one.messages, one.tools], sort_keys=not ORDERED) for one in found]

    expected = written(path)
    assert "null" not in "".join(expected[:2]) and '{"city": "Paris"}' in expected[0]
    read_frame = pd.read_parquet(parquet)
    doors = [parquet, str(tmp_path / "saved"), data, read_frame, pd.read_parquet(parquet, dtype_backend="pyarrow")]
    doors += [data.to_pandas(), data.with_format("torch"), pd.DataFrame(rows)]
    if importlib.util.find_spec("polars"):
        import polars

        doors.append(polars.read_parquet(parquet))
    for door in doors:
        assert written(door) == expected, type(door)
    renamed = Written(columns=(("messages", "said"),))
    told = read_conversations(data.rename_column("messages", "said"), ReadOptions(written=renamed))
    shown = [json.dumps([one.messages, one.tools], sort_keys=not ORDERED) for one in told.further[CONVERSATIONS]]
    assert shown == expected


def test_a_null_that_was_written_stays(tmp_path):
    """In the arguments of a call it says something, and transformers gives it to the template."""
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {"city": None}}}]}
    rows = [{"messages": [TWO[0], call]}, {"messages": [TWO[0], {**call, "tool_calls": [{"function": {}}]}]}]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    of_json = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    for door in (path, pd.DataFrame(rows), *([of_json] if ORDERED else [])):
        found = messages(read_conversations(door))
        assert found[0][-1]["tool_calls"][0]["function"]["arguments"] == {"city": None}, type(door)


LOOK = {"name": "look", "arguments": {"at": "book"}}
DESCRIBED = {"name": "look", "description": "it looks", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    "value", [json.dumps(LOOK), LOOK, json.dumps([LOOK]), json.dumps({**LOOK, "arguments": '{"at": "book"}'})]
)
def test_sharegpts_calls_are_openais(value):
    """As LLaMA-Factory's files have them: a call is JSON in a message, and a tool the function alone."""
    theirs = {
        "conversations": [
            {"from": "human", "value": "the film"},
            {"from": "function_call", "value": value},
            {"from": "observation", "value": "3"},
            {"from": "gpt", "value": "was good"},
        ],
        "tools": json.dumps([DESCRIBED]),
    }
    ours = {
        "messages": [
            TWO[0],
            {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": LOOK}]},
            {"role": "tool", "content": "3"},
            TWO[1],
        ],
        "tools": [{"type": "function", "function": DESCRIBED}],
    }
    (one,), (other,) = (read_conversations([row]).further[CONVERSATIONS] for row in (theirs, ours))
    assert one == other and one.learnt == (1, 3)


def test_the_order_of_roles_is_the_templates_to_judge():
    for said_so in ([FOUR[0], FOUR[2], FOUR[3]], FOUR[1:], [*TWO, {"role": "system", "content": "a"}, *FOUR[2:]]):
        (one,) = read_conversations([said_so]).further[CONVERSATIONS]
        assert one.messages == said_so


def test_neighbours_and_openings():
    three = said(
        ("assistant", "hello"), ("user", "the film"), ("user", "she"), ("assistant", "was"), ("assistant", "good")
    )
    (one,) = read_conversations([three]).further[CONVERSATIONS]
    assert one.learnt == (0, 3, 4)
    merged = one.without_opening().merged()
    assert merged.messages == said(("user", "the film\n\nshe"), ("assistant", "was\n\ngood")) and merged.learnt == (1,)
    assert one.merged().learnt == (0, 2)
    results = [TWO[0], {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}, TWO[1]]
    assert read_conversations([results]).further[CONVERSATIONS][0].merged().messages == results
