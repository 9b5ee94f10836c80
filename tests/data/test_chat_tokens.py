"""Which tokens of a conversation bear loss: the assistant's, whatever the template; else an error and no wrong mask."""

from __future__ import annotations

import itertools
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chats import (
    CHATML,
    GEMMA,
    MARKED,
    NO_STOP,
    OPEN_MARKS,
    STOPS,
    TEMPLATES,
    THINKING,
    chat_tokenizer,
    said,
    save_chat_model,
)
from stratatune.data.chat_tokens import PLAIN, ChatTemplate, encode_chat
from stratatune.data.conversations import read_conversations
from stratatune.data.encoded import IGNORED
from stratatune.data.messages import Conversation
from stratatune.data.read_options import ReadOptions
from stratatune.errors import DataError

MANY = said(("user", "the film"), ("assistant", "was good"), ("user", "she"), ("assistant", "loves this book"))


def conversation(messages):
    return Conversation(messages, tuple(at for at, one in enumerate(messages) if one["role"] == "assistant"))


def learnt(template, messages, **options):
    """The texts that bear loss."""
    tokenizer = chat_tokenizer()
    found = ChatTemplate(template, tokenizer, **options).tokens(conversation(messages), "x")
    assert found.ids == list(tokenizer.apply_chat_template(messages, chat_template=template)["input_ids"])
    return [tokenizer.decode(found.ids[start:end]) for start, end in found.spans]


@pytest.mark.parametrize("name", TEMPLATES)
def test_loss_is_on_answers_and_their_stop(name):
    texts = learnt(TEMPLATES[name], MANY)
    stop = STOPS[name]
    assert [text.replace("</s>", "").rstrip() for text in texts] == [f"was good{stop}", f"loves this book{stop}"]
    assert all(text.endswith((stop, "</s>")) for text in texts)
    assert learnt(TEMPLATES[name], MANY, last=True) == texts[1:]
    tokenizer = chat_tokenizer()
    template = ChatTemplate(TEMPLATES[name], tokenizer)
    tokens = template.tokens(conversation(MANY), "x")
    assert template.stop(tokens) in (tokenizer.convert_tokens_to_ids(stop), tokenizer.eos_token_id)


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_system_prompts_and_tools_are_given(template):
    messages = [*said(("system", "a book"), ("user", "the film")), {"role": "assistant", "content": "look"}]
    messages += said(("tool", "3"), ("assistant", "was good"))
    assert [text.strip() for text in learnt(template, messages)] == ["look<|im_end|>", "was good<|im_end|>"]


CALLING = CHATML.replace("{{ m.content }}", "{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls[0].name }}{% endif %}")


def test_what_a_template_writes_nothing_of():
    messages = [*said(("user", "the film")), {"role": "assistant", "content": "", "tool_calls": [{"name": "look"}]}]
    one, described = conversation(messages), "{{ tools }}" + CHATML
    with_tools = replace(one, tools=[{"name": "look"}])
    for template, what in ((CHATML, ["tool calls", "tools"]), (CALLING, ["tools"]), (described, ["tool calls"])):
        found = ChatTemplate(template, chat_tokenizer())
        assert found.unwritten(with_tools) == what
        assert found.unwritten(one) == [name for name in what if name != "tools"]
        assert found.unwritten(conversation(MANY)) == []


def calls(**more):
    return {"role": "assistant", "content": "", "tool_calls": [{"name": "look"}], **more}


@pytest.mark.parametrize("template", [CHATML, MARKED, OPEN_MARKS, PLAIN])
def test_a_call_of_which_nothing_is_written_is_not_learnt(template):
    """Learnt as it is written, it would teach the model to answer with nothing."""
    asked, found = said(("user", "the film"), ("tool", "3"))
    tokenizer = chat_tokenizer()
    made = ChatTemplate(template, tokenizer).tokens(conversation([asked, calls(), found, MANY[1]]), "x")
    assert [tokenizer.decode(made.ids[a:b]).split("<")[0].strip() for a, b in made.spans] == ["was good"]
    assert made.silent == 1
    spoken = [asked, calls(content="she"), found, MANY[1]]
    assert len(learnt(template, spoken)) == 2
    assert learnt(template, [asked, calls()], last=True) == []


def test_a_call_that_is_written_is_learnt():
    assert learnt(CALLING, [MANY[0], calls()]) == ["look<|im_end|>"]


def test_calls_of_which_nothing_is_written_are_counted():
    asked, found = said(("user", "the film"), ("tool", "3"))
    rows, template = [[asked, calls(), found, MANY[1]], [asked, calls()]], ChatTemplate(CHATML, chat_tokenizer())
    data = encode_chat(read_conversations(rows), template, 200)
    assert len(data) == 1 and "2 answers of the assistant are calls of tools" in data.notices[0]
    assert "1 rows have no other answer and are left out" in data.notices[0]
    with pytest.raises(DataError, match="every answer is a call of a tool.*template=.FILE"):
        encode_chat(read_conversations(rows[1:]), template, 200)


def test_prefixes_and_marks_agree():
    assert learnt(CHATML, MANY) == learnt(MARKED, MANY)


def test_the_loss_of_an_answer_ends_at_its_closing_token():
    assert learnt(PLAIN, MANY) == ["was good</s>", "loves this book</s>"]
    assert learnt(CHATML, MANY)[0] == "was good<|im_end|>"
    tokenizer = chat_tokenizer()
    tokenizer.add_tokens(["\n"])  # as Gemma's vocabulary has it
    made = ChatTemplate(GEMMA, tokenizer)
    tokens = made.tokens(conversation(MANY), "x")
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert [tokens.ids[end - 1] for _, end in tokens.spans] == [end, end] and made.stop(tokens) == end


def test_marks_that_leave_the_stop_token_out_get_it():
    assert learnt(OPEN_MARKS, MANY) == learnt(MARKED, MANY)


def test_some_answers_alone_are_learnt():
    for template in (CHATML, MARKED):
        tokenizer = chat_tokenizer()
        found = ChatTemplate(template, tokenizer).tokens(Conversation(MANY, (3,)), "x")
        assert [tokenizer.decode(found.ids[a:b]).strip() for a, b in found.spans] == ["loves this book<|im_end|>"]


def test_a_template_that_rewrites_earlier_turns_is_refused():
    thought = said(("user", "the film"), ("assistant", "<think>a book</think>was good"), *[("user", "she")])
    thought += said(("assistant", "<think>very</think>loves"))
    with pytest.raises(DataError) as caught:
        learnt(THINKING, thought)
    assert "rewrites message 2 once others follow" in caught.value.message
    assert "turns=last" in caught.value.hint and "\n" not in str(caught.value)
    assert learnt(THINKING, thought, last=True) == ["<think>very</think>loves<|im_end|>"]
    assert learnt(THINKING, thought[:2]) == ["<think>a book</think>was good<|im_end|>"]


def test_a_prompt_that_no_answer_follows_is_refused():
    template = CHATML.replace("assistant\n{% endif", "assistant\n<think>{% endif")
    with pytest.raises(DataError, match="its prompt for an answer is not what it writes before message 2"):
        learnt(template, MANY)


@pytest.mark.parametrize(
    ("template", "what"),
    [
        (GEMMA, "the chat template refuses it: System role not supported"),
        ("{{ messages[0].content | nothing }}", "the chat template refuses it: No filter named 'nothing'"),
        (MARKED.replace("{% if m.role == 'assistant' %}", "{% if m.role == 'critic' %}"), "mark no token"),
    ],
)
def test_what_a_template_does_not_take_is_one_line(template, what):
    with pytest.raises(DataError) as caught:
        learnt(template, said(("system", "a"), ("user", "the film"), ("assistant", "was good")))
    assert what in caught.value.message and "\n" not in str(caught.value)


def test_a_template_without_a_stop_token():
    template = ChatTemplate(NO_STOP, chat_tokenizer())
    assert template.stop(template.tokens(conversation(MANY), "x")) is None
    plain = ChatTemplate(PLAIN, chat_tokenizer())
    assert plain.stop(plain.tokens(conversation(MANY), "x")) == plain.tokenizer.eos_token_id


def test_an_answer_that_begins_inside_a_token_of_the_prompt_is_counted():
    spaced = NO_STOP.replace("assistant:'", "assistant: '").replace("{{ m.role }}:", "{{ m.role }}: ")
    data = encode_chat(read_conversations([MANY]), ChatTemplate(spaced, chat_tokenizer()), 200)
    assert "2 of 2 answers begin inside a token of the prompt" in data.notices[0]
    assert "good" in chat_tokenizer().decode(data.targets["label"].values[data.targets["label"].values >= 0])


def test_targets_are_the_answers_tokens_and_read_is_before_the_first():
    tokenizer = chat_tokenizer()
    template = ChatTemplate(CHATML, tokenizer)
    data = encode_chat(read_conversations([MANY[:2], MANY]), template, 200)
    targets = data.targets["label"]
    assert (targets.offsets == data.offsets).all()
    bears = targets.values != IGNORED
    assert (targets.values[bears] == data.ids[bears]).all()
    for row in range(2):
        ids = data.ids[data.offsets[row] : data.offsets[row + 1]]
        assert tokenizer.decode(ids[: data.read[row] + 1]).endswith("<|im_start|>assistant\n")
    prompts = encode_chat(read_conversations([MANY[:3]], ReadOptions(need_labels=False)), template, 200)
    assert not prompts.targets and tokenizer.decode(prompts.ids).endswith("she<|im_end|>\n<|im_start|>assistant\n")


def test_what_is_cut_is_counted_and_no_answer_is_lost_in_silence():
    template = ChatTemplate(CHATML, chat_tokenizer())
    table = read_conversations([MANY[:2], MANY, said(("user", "the film " * 40), ("assistant", "was good"))])
    whole = encode_chat(table, template, 400)
    assert len(whole) == 3 and not whole.notices
    short = int(whole.lengths[0])
    data = encode_chat(table, template, short)
    (said_,) = data.notices
    assert len(data) == 2 and (data.lengths <= short).all()
    assert f"2 of 3 conversations of the conversations given are cut to {short} tokens" in said_
    assert "2 of 4 answers lose their end or all, 1 conversations keep no answer and are left out" in said_
    with pytest.raises(DataError, match=f"within 3 tokens no conversation has an answer.*{whole.lengths.max()} tokens"):
        encode_chat(table, template, 3)


STRICT = (  # as Gemma's and Mistral's: it refuses roles that do not alternate
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + CHATML
)
UNEVEN = [
    said(("user", "the film"), ("user", "she"), ("assistant", "was good")),
    said(("assistant", "a book"), ("user", "she"), ("assistant", "loves"), ("assistant", "this book")),
]


@pytest.mark.parametrize("rows", [UNEVEN])
def test_what_a_template_refuses_is_mended_and_counted(rows):
    tokenizer = chat_tokenizer()
    data = encode_chat(read_conversations([MANY, *rows]), ChatTemplate(STRICT, tokenizer), 200)
    texts = [tokenizer.decode(data.ids[a:b]) for a, b in itertools.pairwise(data.offsets)]
    assert "<|im_start|>user\nthe film\n\nshe<|im_end|>" in texts[1]
    assert texts[2].endswith("assistant\nloves\n\nthis book<|im_end|>\n") and "a book" not in texts[2]
    (notice,) = data.notices
    assert "refuses 2 of 3 conversations as they are, from row 2" in notice
    assert "are joined, with a blank line between (2)" in notice and "before the first user is left out (1)" in notice
    asked = read_conversations([rows[0][:2]], ReadOptions(need_labels=False))
    assert "refuses 1 of 1" in encode_chat(asked, ChatTemplate(STRICT, tokenizer), 200).notices[0]
    with pytest.raises(DataError, match="row 1: the chat template refuses it: roles must alternate"):
        encode_chat(read_conversations([[*said(("system", "a")), *MANY]]), ChatTemplate(STRICT, tokenizer), 200)


def test_an_answer_is_not_joined_with_one_that_is_not_learnt():
    """Joined, it would not be learnt either, and its row would be left out without a word."""
    first, second, third = said(("user", "the film"), ("assistant", "she"), ("assistant", "was good"))
    row = [first, {**second, "weight": 0}, third]
    with pytest.raises(DataError, match="row 1: the chat template refuses it: roles must alternate"):
        encode_chat(read_conversations([row]), ChatTemplate(STRICT, chat_tokenizer()), 200)


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_what_a_template_takes_stays_as_it_is(template):
    tokenizer = chat_tokenizer()
    data = encode_chat(read_conversations(UNEVEN), ChatTemplate(template, tokenizer), 200)
    for row, (start, end) in zip(UNEVEN, itertools.pairwise(data.offsets), strict=True):
        assert tokenizer.decode(data.ids[start:end]) == tokenizer.apply_chat_template(
            row, chat_template=template, tokenize=False
        )
    # Without marks nothing shows where an answer at the very beginning starts.
    assert len(data.notices) == (template == CHATML)
    assert all("1 answers come before any message of a user" in notice for notice in data.notices)


# ---- TRL, the trainer that people use today -------------------------------------------------------------------------

ALIKE = ("cohere", "gemma", "gemma3", "llama3", "lfm2", "phi3", "qwen2_5_vl", "qwen3_instruct_2507")
"""Templates that TRL ships as published and with marks for training, whose marks begin where a prompt ends."""


@pytest.mark.parametrize("name", ALIKE)
def test_published_templates_bear_loss_as_trls_marked_ones(name):
    """By prefixes on the template as published the same tokens as by the marks that TRL put into it.

    Apart from a line's end behind the closing token, which some of TRL's marks enclose.
    """
    trl = pytest.importorskip("trl")
    folder = Path(trl.__file__).parent / "chat_templates"
    tokenizer = chat_tokenizer()
    published, marked = ((folder / f"{name}{end}.jinja").read_text() for end in ("", "_training"))
    assert not ChatTemplate(published, tokenizer).marked and ChatTemplate(marked, tokenizer).marked
    for messages in (MANY, MANY[:2]):
        ours, theirs = (
            ChatTemplate(text, tokenizer).tokens(conversation(messages), "x") for text in (published, marked)
        )
        text = [tokenizer.decode(theirs.ids[end - 1]) for _, end in theirs.spans]
        ends = [end - (not one.strip()) for one, (_, end) in zip(text, theirs.spans, strict=True)]
        assert ours.ids == theirs.ids
        assert ours.spans == [(start, end) for (start, _), end in zip(theirs.spans, ends, strict=True)]


@pytest.mark.parametrize("template", [MARKED])
def test_the_same_tokens_bear_loss_as_under_sfttrainer(template, tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    folder = save_chat_model(tmp_path / "model", template)
    rows = [MANY, MANY[:2], [*said(("system", "a book")), *MANY]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = trl.SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder),
            processing_class=chat_tokenizer(template),
            train_dataset=Dataset.from_list([{"messages": json.loads(json.dumps(one))} for one in rows]),
            args=trl.SFTConfig(
                output_dir=str(tmp_path / "out"), assistant_only_loss=True, use_cpu=True, report_to=[], max_length=256
            ),
        )
        batch = trainer.data_collator([trainer.train_dataset[at] for at in range(len(rows))])
    ours = encode_chat(read_conversations(rows), ChatTemplate(template, chat_tokenizer(template)), 256)
    for row, (ids, labels, mask) in enumerate(
        zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True)
    ):
        at = slice(*ours.offsets[row : row + 2])
        assert ids[mask.bool()].tolist() == ours.ids[at].tolist()
        assert labels[mask.bool()].tolist() == ours.targets["label"].values[at].tolist()
    assert np.unique(ours.targets["label"].values).size > 3
