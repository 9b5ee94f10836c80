"""Files appear whole or not at all, with the user's permissions, and failures are one line."""

import os
import stat

import pytest

from stratatune import files
from stratatune.errors import ResourceError


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def library_write(path):
    """As a library writes that makes a private file of its own and renames it (safetensors does)."""
    own = path.with_name("private")
    os.close(os.open(own, os.O_CREAT | os.O_WRONLY, 0o600))
    own.write_bytes(b"new")
    os.replace(own, path)


@pytest.mark.skipif(os.name == "nt", reason="no umask")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_the_umask_holds_whoever_creates_the_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        files.write_text(tmp_path / "own", "text")
        with files.replacing(tmp_path / "library") as partial:
            library_write(partial)
    finally:
        os.umask(before)
    assert mode(tmp_path / "own") == mode(tmp_path / "library") == 0o666 & ~umask


def test_a_file_that_is_there_keeps_its_permissions(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    files.write_text(path, "new")
    assert path.read_text() == "new" and mode(path) == 0o640


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    refused = pytest.raises(ResourceError, match=f"cannot write {path}: No space left")
    with refused, files.write_errors(path), files.replacing(path) as partial:
        partial.write_text("half of it")
        raise OSError(28, os.strerror(28))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_synced_before_it_takes_its_place_and_the_folder_after(tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("sync"), sync(handle)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("replace"), replace(*names)))
    files.write_bytes(tmp_path / "file", b"data")
    assert done == ["sync", "replace", "sync"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
    files.write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "file").read_text() == "text"


def test_what_is_no_regular_file_is_written_in_place(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    handle = os.open(pipe, os.O_RDWR)
    files.write_text(pipe, "text")
    assert os.read(handle, 10) == b"text"
    os.close(handle)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(ResourceError, match="Is a directory"):
        files.write_text(tmp_path, "text")


def test_what_a_killed_process_left_is_swept_away_and_a_live_ones_is_not(tmp_path):
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    for process in (gone, os.getppid()):
        (tmp_path / f".file.{process}.part").write_text("half")
    (tmp_path / ".file.txt.part").write_text("not ours")
    files.write_text(tmp_path / "file", "text")
    assert {one.name for one in tmp_path.iterdir()} == {"file", f".file.{os.getppid()}.part", ".file.txt.part"}


def test_a_long_name(tmp_path):
    path = tmp_path / ("n" * 250)
    files.write_text(path, "text")
    assert path.read_text() == "text"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"cannot write .*below: (Not a directory|File exists)"):
        files.make_folder(tmp_path / "file" / "below")


def test_what_safetensors_says_of_a_full_disk_is_one_line_and_other_errors_pass(tmp_path):
    from safetensors import SafetensorError

    with pytest.raises(ResourceError, match="cannot write .*: Error while serializing: IoError"):  # noqa: SIM117
        with files.write_errors(tmp_path):
            raise SafetensorError("Error while serializing:\nIoError")
    with pytest.raises(ZeroDivisionError), files.write_errors(tmp_path):
        raise ZeroDivisionError


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty", "below/new"):
        with files.new_folder(tmp_path / name) as folder:
            folder.mkdir()
            files.write_text(folder / "a" if name == "new" else folder / "b", name)
            assert not any((tmp_path / name).glob("*"))
        assert [path.read_text() for path in (tmp_path / name).iterdir()] == [name]
    with (
        pytest.raises(ResourceError, match=f"cannot write {tmp_path}/full/a: No space"),
        files.new_folder(tmp_path / "full") as folder,
        files.write_errors(folder / "a"),
    ):
        folder.mkdir()
        (folder / "half").write_text("")
        raise OSError(28, "No space left on device")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["below", "empty", "new"]


def test_a_folder_that_a_killed_process_left_is_swept_away(tmp_path):
    gone = tmp_path / ".out.999999999.part"
    gone.mkdir()
    (gone / "half").write_text("")
    with files.new_folder(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
