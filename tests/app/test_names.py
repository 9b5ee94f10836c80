"""The names that a user sees, and those that are reachable besides."""

import stratatune as st

BESIDES = (
    *("Adapters", "Answerer", "Embedder", "Tagger"),
    *("add_architecture", "backbone_from_names", "cost", "remove", "shape_of"),
    *("EncoderArchitecture", "DecoderArchitecture", "Fields"),
)


def test_few_names_are_shown():
    shown = [name for name in dir(st) if not name.startswith("_")]
    assert len(shown) <= 15 and set(shown) == {name for name in st.__all__ if not name.startswith("_")}


def test_the_others_are_there_too():
    for name in (*BESIDES, *st.__all__):
        assert getattr(st, name) is not None
    assert not set(BESIDES) & {name for name in dir(st) if not name.startswith("_")}
