"""`stratatune demo`, on a tiny model in place of the packaged one."""

import io

import pytest

from stratatune.app import demo
from stratatune.errors import ResourceError


def test_demo(say, tiny_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "packaged_model", lambda: str(tiny_folder("bert")))
    said = say("demo", "--out", tmp_path / "demo", "--epochs", 1, "--text", "my bins are full", "--json")
    assert said.code == 0, said.err
    assert set(said.json["results"]) == {"bft-adapter", "lora"}
    assert said.json["prediction"]["text"] == "my bins are full"
    assert said.err.count("backward through") >= 2 and "┌────────┐" not in said.err  # two lines, no picture
    assert (tmp_path / "demo" / "bft-adapter" / "adapter" / "adapter.json").is_file()


def test_a_second_demo_gets_a_folder_of_its_own(tmp_path):
    assert [demo.fresh_folder(tmp_path / "demo").name for _ in range(3)] == ["demo", "demo-2", "demo-3"]


def test_without_the_model(monkeypatch):
    monkeypatch.setattr(demo, "MODEL_PACKAGE", "no_such_package_at_all")
    with pytest.raises(ResourceError) as caught:
        demo.packaged_model()
    assert caught.value.hint == 'pip install "stratatune[demo]"'


def test_the_sentence(monkeypatch, capsys):
    from stratatune.progress import Reporter

    assert demo.ask("given", Reporter()) == "given"
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert demo.ask(None, Reporter()) == demo.SENTENCE
    assert "not a terminal" in capsys.readouterr().err
