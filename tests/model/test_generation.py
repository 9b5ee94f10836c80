"""A tuned decoder generates by transformers' own ``generate``, with its key-value cache, what it was trained to say."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

import tiny
from stratatune.errors import PlanError
from stratatune.model.attach import apply
from stratatune.model.question import Question
from stratatune.model.split import Top, Trunk
from stratatune.serving.generated import GeneratedText, GeneratedTexts
from stratatune.training.generate import generate_texts

PLANS = (
    "1: lora(rank=2, on=q,v) | adapter(depth=2)",
    "late_prompt(depth=2, tokens=3, bottleneck=4)",
    "late_prompt(depth=0, tokens=2, bottleneck=4) | late_prompt(depth=3, tokens=3, bottleneck=4) | adapter(depth=4)",
    "prompt(tokens=3) | late_prompt(depth=2, tokens=2, bottleneck=4)",
    "idpg(tokens=2, bottleneck=8, phm=4)",
)
NEW = 6
TEXTS = ["the dog", "a very big cat", "she reads", "the dog"]


def tuned(family, plan, **config):
    model = tiny.tiny_decoder(family, **config).double()
    apply(model, tiny.with_experts(family, plan))
    torch.manual_seed(1)
    for parameter in model.attached.trained().values():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    model.generation_config.eos_token_id = None
    return model.eval()


@torch.no_grad()
def by_hand(model, text, read):
    """Greedy, one whole forward a token, no key-value cache; the prompt is made from the text alone."""
    ids = text.clone()
    for _ in range(NEW):
        mask = torch.ones_like(ids).bool()
        places = torch.tensor([[read, ids.shape[1] - 1]])  # the first says where the text ends
        logits = Top(model.attached)(Trunk(model.attached)(ids, mask), mask, Question(places=places))[:, 1]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
    return ids


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", tiny.WRITERS)
def test_greedy_generation_is_the_argmax_loop(family, plan):
    model = tuned(family, plan)
    torch.manual_seed(0)
    text = torch.randint(5, 60, (1, 5))
    said = model.generate(text, attention_mask=torch.ones_like(text), max_new_tokens=NEW, do_sample=False)
    assert said.tolist() == by_hand(model, text, read=4).tolist()


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_batch_padded_on_the_left_says_what_each_text_says_alone(family, plan):
    model = tuned(family, plan)
    torch.manual_seed(0)
    long, short = torch.randint(5, 60, (1, 7)), torch.randint(5, 60, (1, 4))
    ids = torch.cat([long, torch.cat([torch.ones(1, 3, dtype=torch.long), short], 1)])
    mask = torch.tensor([[1] * 7, [0] * 3 + [1] * 4])
    said = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False)
    for row, text in ((0, long), (1, short)):
        alone = model.generate(text, attention_mask=torch.ones_like(text), max_new_tokens=NEW, do_sample=False)
        assert said[row, 7:].tolist() == alone[0, text.shape[1] :].tolist()


def test_a_late_prompt_needs_the_key_value_cache():
    model, text = tuned("llama", PLANS[1]), torch.randint(5, 60, (1, 5))
    with pytest.raises(PlanError, match="key-value cache"):
        model.generate(text, max_new_tokens=2, use_cache=False)
    tuned("llama", PLANS[0]).generate(text, attention_mask=torch.ones_like(text), max_new_tokens=2, use_cache=False)


def test_beams_carry_the_prompt():
    model, text = tuned("llama", PLANS[1]), torch.randint(5, 60, (2, 5))
    said = model.generate(text, attention_mask=torch.ones_like(text), max_new_tokens=4, num_beams=3, do_sample=False)
    assert said.shape == (2, 9)


def test_a_sliding_window_that_would_forget_the_prompt_is_refused():
    model, text = tuned("mistral", PLANS[1], sliding_window=6), torch.randint(5, 60, (1, 5))
    with pytest.raises(PlanError, match="drops the prompt"):
        model.generate(text, attention_mask=torch.ones_like(text), max_new_tokens=4)


@pytest.mark.parametrize("plan", PLANS)
def test_writing_on_where_longrope_changes_its_angles(plan):
    """At 64 tokens, a prompt at the input included; what has no prompt says what it does without a cache."""
    model = tuned("phi3", plan)
    moved = 3 if plan.startswith("prompt") else 0
    torch.manual_seed(0)

    def say(length, new):
        text = torch.randint(5, 60, (1, length))
        return text, model.generate(text, attention_mask=torch.ones_like(text), max_new_tokens=new, do_sample=False)

    text, said = say(64 - NEW - moved, NEW)
    assert said.tolist() == by_hand(model, text, read=text.shape[1] - 1).tolist()
    if plan == PLANS[0]:
        text, said = say(61, NEW)
        assert said.tolist() == by_hand(model, text, read=60).tolist()
        return
    with pytest.raises(PlanError, match=f"more than {64 - moved} tokens"):
        say(61 - moved, NEW)
    text, said = say(70, NEW)  # it begins behind the border, and stays there
    assert said.tolist() == by_hand(model, text, read=69).tolist()
    with torch.no_grad():  # texts that were never written on
        for length in (64 - moved, 65 - moved):
            model(torch.randint(5, 60, (1, length)), use_cache=True)


@pytest.mark.parametrize("plan", ["2: prefix(tokens=3)", "2: lora + prefix(tokens=1)"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_static_cache_changes_no_token(family, plan):
    model = tuned(family, plan)
    text = torch.randint(5, 60, (2, 5), generator=torch.Generator().manual_seed(0))
    given = {"attention_mask": torch.ones_like(text), "max_new_tokens": NEW, "do_sample": False}
    said = model.generate(text, **given)
    assert torch.equal(model.generate(text, **given, cache_implementation="static"), said)


def test_generation_without_a_cache_is_refused_however_it_is_asked_for():
    model, text = tuned("llama", "late_prompt(depth=2, tokens=2)"), torch.randint(5, 60, (1, 5))
    asked = GenerationConfig(max_new_tokens=2, use_cache=False, pad_token_id=1)
    with pytest.raises(PlanError, match="a late prompt is made once"):
        model.generate(text, generation_config=asked)
    model.generation_config.use_cache = False
    with pytest.raises(PlanError, match="a late prompt is made once"):
        model.generate(text, max_new_tokens=2)
    model.generate(text, max_new_tokens=2, use_cache=True, attention_mask=torch.ones_like(text))


def test_a_long_text_cuts_no_answer_of_its_batch_short():
    """Where a model has a table of positions, each answer ends where its own text and it fill the table."""
    model, tokenizer = tiny.tiny_decoder("gpt2").eval(), tiny.decoder_tokenizer()
    model.generation_config.eos_token_id = None
    rows, settings = [[5] * 11, [7, 8], [9, 5], [5] * 9], {"max_new_tokens": 5, "do_sample": False}
    written = [GeneratedText() for _ in rows]
    said = generate_texts(model, tokenizer, rows, 12, settings, 12, listener=GeneratedTexts(written))
    assert [one.tokens for one in written] == [1, 5, 5, 3]
    assert said == [generate_texts(model, tokenizer, [row], 12, settings, 12)[0] for row in rows]


@pytest.mark.parametrize("family", ["t5", "bart", "llama"])
@pytest.mark.parametrize("beams", ["one", "two", "the model's own two"])
def test_pieces_are_the_whole_text(family, beams):
    """Encoder-decoders too, whose first token is no part of the answer; and beams, which are heard at the end."""
    if family == "llama":
        model, tokenizer = tiny.tiny_decoder("llama").eval(), tiny.decoder_tokenizer()
    else:
        model, tokenizer = tiny.tiny_encoder_decoder(family, more=0).eval(), tiny.roberta_tokenizer()
    settings = {"max_new_tokens": NEW, "do_sample": False, **({"num_beams": 2} if beams == "two" else {})}
    model.generation_config.num_beams = 1 if beams == "one" else 2
    heard = [[] for _ in TEXTS]
    written = [GeneratedText(hear=one.append) for one in heard]
    said = generate_texts(model, tokenizer, TEXTS, 16, settings, listener=GeneratedTexts(written))
    assert said == generate_texts(model, tokenizer, TEXTS, 16, settings)
    assert ["".join(one) for one in heard] == said == [one.text for one in written]
    assert all(1 <= one.tokens <= NEW for one in written)


def test_an_answer_ends_at_its_end_whatever_fills_its_row_up():
    """What follows the end of an answer is filling, also where neither token is special to the tokenizer."""
    model, tokenizer = tiny.tiny_decoder("llama").eval(), tiny.decoder_tokenizer()
    settings = {"max_new_tokens": NEW, "do_sample": False}
    (whole,) = generate_texts(model, tokenizer, TEXTS[:1], 16, settings)
    model.generation_config.eos_token_id = tokenizer(whole, add_special_tokens=False).input_ids[-1]
    (alone,) = generate_texts(model, tokenizer, TEXTS[:1], 16, settings)
    assert whole.startswith(alone) and alone != whole
    assert generate_texts(model, tokenizer, TEXTS[:2], 16, settings)[0] == alone
