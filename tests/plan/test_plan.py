"""Plans: three forms of one object, what they resolve to, and what is refused."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratatune.errors import PlanError
from stratatune.plan import (
    ROLES,
    Adapter,
    BitFit,
    DeltaBias,
    Dora,
    Frozen,
    Full,
    Head,
    Houlsby,
    Ia3,
    Idpg,
    LatePrompt,
    Lora,
    Parallel,
    Plan,
    Prefix,
    Prompt,
    Stratum,
    list_presets,
    preset_names,
    shape_of,
)

SPAFIT = "0:5 frozen | 5:10 bitfit | 10: lora(rank=64, alpha=128, on=q,k,v,o) + bitfit(on=ffn,norm_ffn)"
SPAFIT_DELTA = "0:1 frozen | 1:2 delta_bias | 2: lora(rank=64, alpha=128, on=q,k,v) + delta_bias(on=ffn,norm_ffn)"
LARGE = shape_of("roberta-large")

positions = st.one_of(st.integers(-99, 99), st.sampled_from(["1/2", "3/4", "5/24", "2/4", "1/1"]))
rates = st.one_of(st.none(), st.floats(1e-12, 1e3, exclude_min=True))
roles = st.lists(st.sampled_from(ROLES), min_size=1, unique=True).map(tuple)
linear_roles = st.lists(st.sampled_from(ROLES[:7]), min_size=1, unique=True).map(tuple)
counts = st.integers(1, 2**16)
chances = st.floats(0, 1, exclude_max=True)
alphas = st.floats(0, exclude_min=True, allow_infinity=False)
depths = st.one_of(st.integers(0, 99), st.sampled_from(["1/2", "3/4", "6/8"]))
layers = st.one_of(
    st.builds("{}:{}".format, st.one_of(st.just(""), positions), st.one_of(st.just(""), positions)),
    st.integers(-9, 99).map(str),
)
fulls = st.builds(Full, on=roles, lr=rates)
methods = st.one_of(
    st.builds(Frozen),
    st.builds(BitFit, on=roles, lr=rates),
    st.builds(Lora, rank=counts, alpha=alphas, dropout=chances, on=linear_roles, lr=rates),
    st.builds(Dora, rank=counts, alpha=alphas, dropout=chances, on=linear_roles, lr=rates),
    st.builds(Ia3, on=linear_roles, lr=rates),
    st.builds(DeltaBias, on=roles, lr=rates),
    st.builds(Houlsby, bottleneck=counts, on=st.sampled_from([("o",), ("down",), ("o", "down")]), lr=rates),
    st.builds(Parallel, bottleneck=counts, scale=alphas, on=st.sampled_from(["ffn", "attn"]), lr=rates),
    st.builds(Prefix, tokens=counts, lr=rates),
    fulls,
)
generators = st.sampled_from(["naive", "appg", "mppg", "table"])
insertions = st.one_of(
    st.builds(Prompt, tokens=counts, lr=rates),
    st.builds(Idpg, tokens=counts, bottleneck=counts, phm=counts, shared=st.booleans(), dropout=chances, lr=rates),
    st.builds(Adapter, depth=depths, bottleneck=counts, lr=rates),
    st.builds(
        LatePrompt, depth=depths, tokens=counts, bottleneck=counts, generator=generators, dropout=chances, lr=rates
    ),
)
strata = st.builds(Stratum, layers=layers, methods=st.lists(methods, min_size=1, max_size=3).map(tuple))
heads = st.builds(
    Head, mlm=st.lists(st.sampled_from(["dense", "norm", "bias", "decoder"])).map(tuple), pooler=st.booleans(), lr=rates
)
plans = st.builds(
    Plan,
    strata=st.lists(strata, max_size=4).map(tuple),
    insertions=st.lists(insertions, max_size=3).map(tuple),
    embeddings=st.one_of(st.none(), st.builds(Full, lr=rates)),
    head=heads,
)


@given(plans)
@settings(max_examples=150, deadline=None)
def test_text_and_data_round_trip(plan):
    assert Plan.parse(str(plan)) == plan
    assert Plan.from_data(json.loads(json.dumps(plan.to_data()))) == plan
    assert Plan.from_data(str(plan)) == plan
    assert hash(Plan.parse(str(plan))) == hash(plan)


@given(st.text(alphabet='0123456789:/-|+(),= .abdefilnorst@"\n', max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_plan_or_a_plan_error(text):
    try:
        plan = Plan.parse(text)
    except PlanError as error:
        assert "\n" not in error.message
    else:
        assert Plan.parse(str(plan)) == plan


def test_the_preset_of_the_design_prints_as_the_design_writes_it():
    assert str(Plan.parse("spafit-4-9-II")) == SPAFIT
    assert Plan.parse(SPAFIT) == Plan.parse("spafit-4-9-II")
    assert Plan.parse("spafit-1-2/0-0-II") == Plan.parse(
        "enc 0:2 frozen | enc 2:3 bitfit | enc 3: lora(rank=64, alpha=128, on=q,k,v,o) + bitfit(on=ffn,norm_ffn) | "
        "dec 0:1 frozen | dec 1: lora(rank=64, alpha=128, on=q,k,v,o) + bitfit(on=ffn,norm_ffn)"
    )
    assert Plan.parse("spafit-3-3-I").strata[0].layers == "0:4" and len(Plan.parse("spafit-3-3-I").strata) == 2


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("3 bitfit", "3:4 bitfit"),
        ("-1 bitfit", "-1: bitfit"),
        (":5 bitfit", "0:5 bitfit"),
        ("0: bitfit", ": bitfit"),
        ("2/4:  lora", "1/2: lora(rank=8, alpha=16)"),
        (": lora(on=attn,ffn)", ": lora(rank=8, alpha=16, on=q,k,v,o,ffn)"),
        (": bitfit(on=norm_ffn, up, gate, down)", ": bitfit(on=ffn,norm_ffn)"),
        (
            ": bitfit(on=attn,ffn,norms)",
            ": bitfit(on=q,k,v,o,ffn,norms)",
        ),  # not the norms that some blocks have besides
        (
            ": bitfit(on=attn,cross,ffn,router,experts,norm_attn,norm_q,norm_k,norm_post_attn,norm_cross,norm_ffn,"
            "norm_post_ffn)",
            ": bitfit",
        ),
        (": full(lr=1e-5, on=v)", ": full(on=v, lr=1e-05)"),
        ("head(pooler=no, mlm=norm, dense)", "head(mlm=dense,norm)"),
        ("head(mlm=dense,norm,bias,decoder, pooler)", "head(mlm=dense,norm,bias,decoder, pooler)"),
        ("adapter(depth=18, bottleneck=16)", "adapter(depth=18)"),
        ("lpt@12", "late_prompt(depth=12)"),
        ("lpt", "late_prompt(depth=1/2)"),
        ("frozen", "frozen"),
        ("prompt", "prompt(tokens=20)"),
        ("adapter", ": houlsby"),
        ("p-tuning-v2", ": prefix"),
        (": houlsby(on=down,o)", ": houlsby"),
        (": ia3(on=down,v,k) + parallel(on=ffn, scale=4)", ": ia3 + parallel"),
        ("idpg(shared, tokens=5, phm=16)", "idpg(tokens=5, shared)"),
        ("lpt-appg@12", "late_prompt(depth=12, generator=appg)"),
        ("spafit-0-1-I+delta", SPAFIT_DELTA),
    ],
)
def test_canonical_text(written, canonical):
    assert str(Plan.parse(written)) == canonical


def test_every_preset_parses_resolves_and_round_trips():
    for preset in list_presets():
        name = preset.name.replace("N1-N2-I|II", "4-9-II")
        plan = Plan.parse(name)
        assert Plan.parse(str(plan)) == plan
        plan.resolve(LARGE)
        assert preset.summary and preset.source
    assert {"full", "bitfit", "lora", "lora-I", "head", "lpt", "bft+norm2", "bft-adapter+ln"} <= set(preset_names())


@pytest.mark.parametrize(
    ("preset", "objective", "depth"),
    [
        ("lpt", "mlm", 12),
        ("lpt-adapter", "mlm", 18),
        ("bft@0", "mlm", 0),
        ("bft-adapter+ln@18", "mlm", 18),
        ("bft+ffd@24/24", "mlm", None),
        ("lpt-adapter@24", "mlm", 24),
        ("head", "mlm", 24),
        ("spafit-4-9-I", "classification", 5),
        ("full", "classification", 0),
        ("prompt", "mlm", 0),
        ("s-idpg-phm", "mlm", 0),
        ("p-tuning-v2", "classification", 0),
        ("adapterdrop", "classification", 12),
        ("upper-half", "classification", 12),
        ("bitfit", "classification", 0),
        ("frozen", "classification", 24),
        ("-1: bitfit | adapter(depth=20)", "mlm", 20),
    ],
)
def test_objective_and_frozen_depth(preset, objective, depth):
    plan = Plan.parse(preset)
    assert plan.objective == objective
    if depth is None:
        with pytest.raises(PlanError, match="nothing reads a prompt"):
            plan.resolve(LARGE)
        return
    resolved = plan.resolve(LARGE)
    assert (resolved.frozen_depth, resolved.backprop_blocks) == (depth, 24 - depth)
    assert resolved.trains_embeddings == (preset == "full")


def test_fractions_round_half_up_and_at_least_one():
    small = {blocks: shape_of({**TINY, "num_hidden_layers": blocks}) for blocks in (2, 3, 6, 7)}
    halves = {blocks: Plan.parse("lpt").resolve(shape).insertions[0][0] for blocks, shape in small.items()}
    assert halves == {2: 1, 3: 2, 6: 3, 7: 4}
    assert Plan.parse("adapter(depth=1/9)").resolve(small[2]).insertions[0][0] == 1
    assert Plan.parse("1/2: bitfit").resolve(small[7]).frozen_depth == 4


TINY = {
    "model_type": "bert",
    "vocab_size": 30,
    "hidden_size": 8,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
}


def refused(text):
    with pytest.raises(PlanError) as caught:
        Plan.parse(text).resolve(LARGE)
    assert "\n" not in caught.value.message
    return caught.value.message, caught.value.hint


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("5:10 bitfitt", "'bitfitt' is not a method at character 6", "did you mean 'bitfit'?"),
        (": lora(rnk=3)", "'rnk' is not an option of 'lora' at character 8", "did you mean 'rank'?"),
        (": lora(rank=0)", "rank=0 is not legal at character 13", "greater than or equal to 1"),
        (": lora(rank=8.5)", "rank=8.5 is not legal at character 13", "a whole number"),
        (": lora(dropout=1)", "dropout=1 is not legal", "less than 1"),
        (": lora(lr=0)", "lr=0 is not legal", "greater than 0"),
        (": bitfit(on=fnn)", "'fnn' is not a role at character 13", "did you mean 'ffn'?"),
        (": lora(on=all)", "a norm has no weight matrix", "legal: attn, ffn, q"),
        (": lora(rank=8", "the end cannot follow an option of 'lora' at character 14", "')'"),
        (": lora(rank)", "')' cannot follow 'rank'", "rank="),
        (": lora(rank=8, rank=9)", "'rank' is given twice", "once"),
        (": bitfit lora", "'lora' cannot follow a method at character 10", "'+'"),
        (": bitfit |", "the end cannot begin a segment at character 11", "layers such as 5:10"),
        ("lora(rank=3)", "'lora' has no layers at character 1", "': lora'"),
        (": adapter(depth=3)", "'adapter' goes at a depth", "| adapter(depth=12)"),
        ("adapter(bottleneck=3)", "adapter needs depth=", "adapter(depth=12)"),
        ("adapter(depth=5/4)", "'5/4' is not a depth", "3/4"),
        ("5-10 bitfit", "layers '5-10' are not a slice", "5:10"),
        ("1/2 bitfit", "layers '1/2' do not name a single block", "1/2:"),
        ("embeddings bitfit", "'bitfit' is not a method of the embeddings at character 12", "full"),
        ("embeddings full(on=q)", "embeddings have no roles", "embeddings full"),
        ("head(pooler) | head(pooler)", "'head' is given twice at character 16", "one segment"),
        ("head(mlm=dens)", "'dens' is not a part of the masked-LM head at character 10", "did you mean 'dense'?"),
        ("late_prompt(depth=3, generator=mpg)", "generator=mpg is not legal", "'naive', 'appg', 'mppg' or 'table'"),
        ("bitft", "unknown preset 'bitft'", "did you mean 'bitfit'?"),
        ("roberta-base", "'roberta-base' names a model, and a plan is needed", "name it with"),
        ("org/some-model", "'org/some-model' names a model", "name it with"),
        ("/models/mine", "'/models/mine' names a model", "name it with"),
        ("bft+lm", "preset 'bft' has no suffix '+lm'", "norm2, ffd, ln"),
        ("bft@x", "'x' in 'bft@x' is not a depth", "@12"),
        ("bft@12+ln", "is not a depth", "at the very end"),
        ("full@3", "inserts nothing", "lpt"),
        ("spafit-9-4-I", "N1=9 is above N2=4", "N1 <= N2"),
        ("spafit-1-2/3-2-I", "N1=3 is above N2=2", "N1 <= N2"),
        ("  ", "the plan is empty", "bft-adapter"),
        ("20:30 bitfit", "20:30 bitfit: layers 20:30 are outside a model of 24 blocks", "0:24"),
        ("-30: bitfit", "-30: bitfit: layers -30: are outside", "0:24"),
        ("10:10 bitfit", "select no block", "0:24"),
        ("spafit-4-23-I", "layers 24: select no block", "0:24"),
        ("bft@40", "depth=40 does not fit a model of 24 blocks", "0..23; after the last block nothing reads"),
        ("adapter(depth=25)", "depth=25 does not fit", "legal: 0..24"),
        ("0:5 frozen | 3:8 bitfit", "block 3: '0:5 frozen' and '3:8 bitfit': both frozen and trained", "not overlap"),
        (
            ": bitfit | 3: bitfit(on=q)",
            "block 3: ': bitfit' and '3: bitfit(on=q)': bitfit and bitfit both train q",
            "once",
        ),
        (": lora | 3: full(on=v)", "lora and full both train v", "full trains weights and biases already"),
        (": bitfit + full(on=ffn)", "block 0: ': bitfit + full(on=ffn)' twice: bitfit and full both train up", "on="),
        ("adapter(depth=3) | adapter(depth=1/8)", "a second adapter at depth 3", "different depths"),
        (": lora(on=gate)", "a block of roberta has no gate", "up, down"),
        (": full(on=q,gate)", "a block of roberta has no gate", "up, down"),
        (": lora + dora", "lora and dora both train q", "drop one of them"),
        (": dora + ia3", "dora and ia3 both train v", "drop one of them"),
        (": bitfit + delta_bias(on=norms)", "bitfit and delta_bias both train norm_attn", "drop one of them"),
        (": full(on=v) + ia3", "full and ia3 both train v", "full trains weights and biases already"),
        (": prefix | 3: prefix(tokens=2)", "prefix and prefix both train attn", "once"),
        (": parallel + parallel(scale=2)", "parallel and parallel both train ffn", "once"),
        (": houlsby | -1: houlsby(on=down)", "houlsby and houlsby both train down", "once"),
        (": houlsby(on=q)", "after a projection into the hidden state", "legal: o, down"),
        (": ia3(on=norms)", "a norm has no weight matrix", "legal: attn, ffn, q"),
        (": parallel(on=o)", "on=o is not legal", "'ffn' or 'attn'"),
        (
            "prompt(tokens=5) | idpg(tokens=5)",
            "a second prompt at depth 0, where prompt puts one",
            "one of them larger",
        ),
        ("prompt(tokens=5) | late_prompt(depth=0)", "a second prompt at depth 0", "different depths"),
        ("prompt(tokens=5) | prompt(tokens=3)", "a second prompt at depth 0", "different depths"),
        ("prompt(tokens=5, depth=3)", "prompt: depth=3 is not legal", "0"),
        ("prompt(tokens=512)", "the prompt takes 512 positions of 512, so no text fits", "shorter"),
        (": prompt", "'prompt' goes at the input, not on layers", "| prompt(tokens=20)"),
        ("idpg(tokens=5, phm=5)", "phm=5 does not divide the hidden size 1024", "power of two"),
        ("lpt-appg+x", "preset 'lpt-appg' has no suffix '+x'", "norm2"),
    ],
)
def test_refusals_name_the_place_the_value_and_what_is_legal(text, message, hint):
    said, helped = refused(text)
    assert message in said
    assert hint in helped


def test_a_norm_or_linear_without_bias_is_refused_by_name():
    """In a block of RMS norms and linears without biases."""
    norms = {role: replace(norm, bias=False) for role, norm in LARGE.norms.items()}
    linears = {role: replace(linear, bias=role == "q") for role, linear in LARGE.linears.items()}
    shape = replace(LARGE, norms=norms, linears=linears)
    assert Plan.parse(": bitfit").resolve(shape).trainable("mlm") == 24 * 1024
    assert Plan.parse(": delta_bias").resolve(shape).trainable("mlm") == 270_336
    with pytest.raises(PlanError, match="norm_ffn of a block of roberta has no bias") as caught:
        Plan.parse(": bitfit(on=q,norm_ffn)").resolve(shape)
    assert "legal: q; delta_bias works without one" in caught.value.hint
    with pytest.raises(PlanError, match="trains nothing"):
        Plan.parse(": bitfit(on=norms)").resolve(shape)


def test_a_prompt_at_the_input_takes_positions_from_the_text():
    assert Plan.parse("prompt").resolve(LARGE).max_tokens == 512 - 20
    assert Plan.parse("s-idpg-phm").resolve(LARGE).max_tokens == 512
    assert Plan.parse("lpt").resolve(LARGE).max_tokens == 512


def test_a_caret_stands_under_the_place():
    _, hint = refused("0:5 frozen | 5:10 bitfit | 10: lora(rank=64, alpha=128, on=q,k,v,o) + bitift(on=ffn,norm_ffn)")
    _, picture, caret = hint.split("\n")
    assert picture[caret.index("^") :].startswith("bitift")
    assert len(picture) <= 80


def test_what_may_stand_together():
    resolved = Plan.parse(": lora(on=ffn) + bitfit(on=attn,ffn) | 3 full(on=norms, lr=0.1)").resolve(LARGE)
    assert [one.kind for one in resolved.blocks[3]] == ["lora", "bitfit", "full"]
    both = Plan.parse("adapter(depth=3) | late_prompt(depth=3)").resolve(LARGE)
    assert [one.kind for _, one in both.insertions] == ["adapter", "late_prompt"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"strat": []}, "unknown key strat"),
        ({"strata": [{"layers": 310, "methods": [{"kind": "bitfit"}]}]}, "layers 310 are not text"),
        ({"strata": [{"layers": ":", "methods": [{"kind": "bitfi"}]}]}, "'bitfi' is not a method"),
        ({"strata": [{"layers": ":", "methods": [{"kind": "lora", "rank": 0}]}]}, "rank=0 is not legal"),
        ({"strata": [{"layers": ":", "methods": []}]}, "strata.0.methods"),
        ({"strata": [{"layers": ":"}]}, "strata.0.methods"),
        ({"insertions": [{"kind": "bitfit"}]}, "'bitfit' is not a method here"),
        ({"embeddings": {"kind": "full", "on": "q"}}, "embeddings have no roles"),
        ({"strata": 3}, "plan: strata"),
        (3, "a text or a mapping"),
    ],
)
def test_bad_data_is_a_plan_error(data, message):
    with pytest.raises(PlanError, match=message):
        Plan.from_data(data)


def test_a_trained_tied_decoder_is_a_problem_unless_the_embeddings_train():
    assert Plan.parse("bft-adapter").resolve(LARGE).problems("mlm") == []
    tied = Plan.parse("20: bitfit | head(mlm=dense,decoder)").resolve(LARGE)
    assert "tied to the embeddings" in tied.problems("mlm")[0]
    assert tied.problems("classification") == []
    assert Plan.parse("full").resolve(LARGE).problems("mlm") == []


def test_summary_is_plain_data():
    resolved = Plan.parse("bft-adapter+ln").resolve(LARGE)
    told = json.loads(json.dumps(resolved.summary("mlm")))
    assert told["trainable"] == told["trainable_by_objective"]["mlm"] == 9_535_593
    assert told["blocks"] == 24 and told["frozen_depth"] == 18 and told["backprop_blocks"] == 6
    assert [row["layers"] for row in told["strata"]] == ["0:18", "18:23", "23:24"]
    assert sum(row["trainable"] for row in told["strata"] + told["insertions"] + [told["head"]]) == told["trainable"]
    assert told["classifier"] == {"labels": 2, "output": 2050, "dense": 1024 * 1024 + 1024}
    assert told["total"] == 355_412_057 + 35_856


def test_importing_the_plan_floor_imports_no_torch():
    code = "import sys, stratatune.plan, stratatune.plan.svg, stratatune.costs.cost; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "rich", "huggingface_hub", "numpy"} & set(loaded)


def test_a_resolved_plan_can_be_copied_and_sent():
    resolved = Plan.parse("bft-adapter").resolve(LARGE)
    assert copy.deepcopy(resolved) == pickle.loads(pickle.dumps(resolved)) == resolved


@pytest.mark.parametrize("text", ["1 3 lora", "1:2 3 lora", "1 2: lora", "5 : 1 0 lora", "1/2 3: lora"])
def test_a_blank_joins_no_numbers(text):
    with pytest.raises(PlanError, match="not a slice"):
        Plan.parse(text)


@pytest.mark.parametrize("option", ["rank", "alpha", "dropout", "lr"])
@pytest.mark.parametrize("value", [True, False])
def test_a_truth_is_not_a_number(option, value):
    data = {"strata": [{"layers": ":", "methods": [{"kind": "lora", option: value}]}]}
    with pytest.raises(PlanError, match=f"lora: {option}={value}: not a number"):
        Plan.from_data(data)
    with pytest.raises(PlanError, match="not a number"):
        Plan.parse(f": lora({option}={'yes' if value else 'no'})")
    with pytest.raises(PlanError, match="is not a depth to cut at"):
        Plan.from_data({"strata": [], "cut": True})


def test_a_role_that_one_block_lacks_trains_in_the_others():
    shape = shape_of("ModernBERT-base")  # its first block has no norm before the attention
    found = Plan.parse(": full(on=norm_attn)").resolve(shape)
    assert (found.frozen_depth, found.trainable("none")) == (1, 21 * 768)
    with pytest.raises(PlanError, match="trains nothing in block 0"):
        Plan.parse("0 full(on=norm_attn)").resolve(shape)
    with pytest.raises(PlanError, match="has no norm_cross"):
        Plan.parse(": full(on=norm_cross)").resolve(shape)


def test_groups_that_are_named_leave_the_other_roles_alone():
    shape = shape_of("bart-base")
    named, every = (Plan.parse(f"dec : full({on})").resolve(shape) for on in ("on=attn,ffn,norms", "on=all"))
    crossed = 6 * (4 * (768 * 768 + 768) + 2 * 768)  # the attention to the encoder, and its norm
    assert every.trainable("none") - named.trainable("none") == crossed


def test_a_model_of_one_block_cannot_be_cut():
    with pytest.raises(PlanError, match="a model of one block cannot be cut"):
        Plan.parse("cut(1)").resolve(replace(shape_of("roberta-base"), blocks=1))
