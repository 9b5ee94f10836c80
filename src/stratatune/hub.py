"""Download ``user/name`` from Hugging Face's hub, and upload folders to it. No torch."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from stratatune.errors import ModelError, ResourceError, StratatuneError, shown, with_article
from stratatune.outside import wrong_path

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[\w./-]{1,100})?")
_WANTED = ("*.json", "*.safetensors", "*.md", "*.txt", "*.model", "*.onnx", "*.onnx.data", "adapter/*")
_OFFLINE = "HF_HUB_OFFLINE is set"
_PATIENCE = 3.0  # seconds
_OFFLINE_BY_US = threading.RLock()  # the setting is that of the process
_UNREACHABLE = "this machine cannot reach the hub, and it was not fetched before"


def fetched(name: str | Path) -> Path:
    """The folder ``name``: a local one as it is, ``user/name`` on the hub downloaded.

    A path whose first folder is here is not an id. ``user/name@revision`` names a branch, a tag or a commit.

    Raises:
        ModelError: nothing is there, or the hub cannot be asked and has not been before; or it is no name at all.
    """
    if not isinstance(name, str | os.PathLike):
        fix = "give its attribute out" if hasattr(name, "out") else "give the folder of a run"
        raise ModelError(f"{with_article(type(name).__name__)} was given, and a folder is needed", fix)
    written = str(name)
    path = Path(written).expanduser()
    if not _ID.fullmatch(written) or wrong_path(written) or path.exists() or path.parent.exists():
        return path
    from huggingface_hub import snapshot_download

    repo, _, revision = written.partition("@")
    what = f"cannot fetch {repo} from the hub"
    with _in_one_line(what, ModelError, "give a folder, or an id such as user/name"), from_cache_if_unreachable():
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=list(_WANTED)))


@contextlib.contextmanager
def from_cache_if_unreachable() -> Iterator[None]:
    """Within it, the hub's libraries ask their caches alone if this machine has no connection to the hub.

    Otherwise huggingface_hub 2.4 asks six times within 24 seconds, or until six attempts have timed out, for each file
    that is not in its cache, and transformers 5.24 asks for files that most models do not have.

    Raises:
        OSError: the hub cannot be reached, and what was asked for is not in the cache.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or not _is_unreachable(constants.ENDPOINT):
        yield
        return
    with _OFFLINE_BY_US:
        constants.HF_HUB_OFFLINE = True  # asked at each request, by huggingface_hub, transformers and datasets
        try:
            yield
        except Exception as error:
            if any("Offline" in type(one).__name__ for one in _causes(error)):
                raise OSError(_UNREACHABLE) from error
            raise
        finally:
            constants.HF_HUB_OFFLINE = False


def _is_unreachable(address: str) -> bool:
    """Whether the hub accepts no connection within some seconds; a proxy, where there is one, is left to try."""
    place = urllib.parse.urlsplit(address)
    if place.hostname is None or urllib.request.getproxies():
        return False
    try:
        port = place.port or (80 if place.scheme == "http" else 443)
        socket.create_connection((place.hostname, port), timeout=_PATIENCE).close()
    except OSError:
        return True
    return False


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def check_id(repo: str) -> None:
    """Refuse an id that is not ``user/name`` (ModelError)."""
    if not _ID.fullmatch(repo) or "@" in repo:
        raise ModelError(f"push: {shown(repo)} is not a hub id", "write user/name")


def push(folder: Path, repo: str, *, private: bool = False, message: str = "Upload by stratatune") -> str:
    """Upload the files of ``folder`` to ``repo`` (``user/name``), creating it if missing; returns its address.

    Raises:
        ModelError: ``repo`` is not an id.
        ResourceError: the hub cannot be reached, or does not let this user write there.
    """
    check_id(repo)
    from huggingface_hub import HfApi, constants

    keep = f"{folder} holds what would have been pushed; log in with `hf auth login`, or set HF_TOKEN"
    if _offline():
        raise ResourceError(f"cannot push to {repo}: {_OFFLINE}", f"unset it; {folder} holds what would be pushed")
    if _is_unreachable(constants.ENDPOINT):
        raise ResourceError(f"cannot push to {repo}: this machine cannot reach the hub", keep)
    with _in_one_line(f"cannot push to {repo}", ResourceError, keep):
        api = HfApi()
        made = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
        return str(made)


@contextlib.contextmanager
def _in_one_line(what: str, kind: type[StratatuneError], hint: str) -> Iterator[None]:
    """Turn the library's many ways of failing into one line."""
    try:
        yield
    except (StratatuneError, MemoryError):
        raise
    except Exception as error:  # whatever the hub's library raises here is about this repository
        raise kind(f"{what}: {_reason(error)}", hint) from error


def _reason(error: BaseException) -> str:
    name = type(error).__name__
    if "Offline" in name or ("LocalEntryNotFound" in name and _offline()):
        return f"{_OFFLINE}, and it was not fetched before"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else name


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
