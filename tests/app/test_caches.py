"""`stratatune cache`: build, ls, verify, rm."""

import os
import time

import pytest


@pytest.fixture
def root(tmp_path):
    return tmp_path / "trunks"


@pytest.fixture
def settings(tiny_folder, data, root, tmp_path):
    return (
        "--model", tiny_folder("bert"), "--plan", "bft-adapter", "--train", data, "--text", "text", "--label", "label",
        "--epochs", 1, "--cache", root, "--out", tmp_path / "run",
    )  # fmt: skip


def test_life_of_a_cache(say, settings, root):
    built = say("cache", "build", *settings, "--json")
    assert built.code == 0, built.err
    assert isinstance(built.json, dict)

    rows = say("cache", "ls", "--root", root, "--json").json
    assert len(rows) == 1
    # 24 rows of four texts.
    assert (rows[0]["complete"], rows[0]["depth"], rows[0]["examples"]) == (True, 3, 4)
    assert rows[0]["digest"] in say("cache", "ls", "--root", root).out

    trained = say("train", *settings, "--json")
    assert trained.json["cache_hit"] is True

    assert say("cache", "verify", "--root", root, "--json").json[0]["sound"] is True
    shard = next(root.glob("*/shard-*.bin"))
    shard.write_bytes(b"\1" + shard.read_bytes()[1:])
    damaged = say("cache", "verify", rows[0]["digest"][:6], "--root", root)
    assert damaged.code == 1
    assert "checksum" in damaged.out

    assert say("cache", "rm", rows[0]["digest"][:6], "--root", root, "--json").json["removed"] == [rows[0]["digest"]]
    assert say("cache", "rm", "--all", "--root", root, "--json").json == {"removed": [], "bytes": 0, "left": []}
    assert say("cache", "ls", "--root", root, "--json").json == []


def test_old_caches_are_pruned(say, settings, root):
    for depth in (1, 2, 3):
        assert say("cache", "build", *settings, "--plan", f"{depth}: lora").code == 0
    rows = {row["depth"]: row for row in say("cache", "ls", "--root", root, "--json").json}
    for depth, hours in ((1, 49), (2, 30), (3, 0)):
        used = time.time() - 3600 * hours
        os.utime(f"{rows[depth]['folder']}/key.json", (used, used))
    old = say("cache", "rm", "--unused", "2d", "--root", root, "--json").json
    assert old == {"removed": [rows[1]["digest"]], "bytes": rows[1]["bytes"], "left": []}
    more = say("cache", "rm", "--keep", f"{rows[3]['bytes']}B", "--root", root)
    assert more.code == 0 and "removed 1, " in more.err + more.out
    assert [row["depth"] for row in say("cache", "ls", "--root", root, "--json").json] == [3]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((), "no cache was named"),
        (("--all", "--unused", "3d"), "--all and --unused or --keep were both given"),
        (("--unused", "3"), "unused: '3'"),
        (("--keep", "much"), "keep: a number with a unit"),
    ],
)
def test_what_rm_refuses(asked, said, say, root):
    found = say("cache", "rm", *asked, "--root", root)
    assert found.code == 2 and said in found.error
