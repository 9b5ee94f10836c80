"""Fixtures for every test: offline by default, tiny models made on the spot, real data where there is some."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable, Generator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# A slow or busy machine is not a fault of the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


def _synced(file: Any) -> None:
    """In place of ``os.fsync``: no test pulls the plug, and a disk would be waited for some twenty times a run."""
    os.fstat(file if isinstance(file, int) else file.fileno())  # what is not open is refused all the same


os.fsync = _synced

SHARED = Path(os.environ.get("STRATATUNE_SHARED", Path(__file__).parents[2] / "shared"))


#: What older libraries warn of, which newer ones mended: the library, the version that mended it, a filter.
MENDED = (
    ("datasets", (5, 2), "ignore:.*FileIO:pytest.PytestUnraisableExceptionWarning"),  # csv files are left open
)


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors, but for those that the library itself has mended since."""
    for library, mended, ignored in MENDED:
        if tuple(map(int, version(library).split(".")[:2])) < mended:
            config.addinivalue_line("filterwarnings", ignored)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests ran on, so that a log says for which processors and libraries it holds."""
    import torch

    from stratatune.app.doctor import processor

    libraries = (f"{name} {version(name)}" for name in ("torch", "transformers", "numpy"))
    terminalreporter.write_line(
        f"on {processor()}, kernels for {torch.backends.cpu.get_cpu_capability()}; {', '.join(libraries)}"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test that asks for the shared folder carries the marker, so that `-m "not shared"` leaves them out."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)


def pytest_collection_finish() -> None:
    """Modules and tests live to the end, and a full pass of the garbage collector over them takes a test's time."""
    _settle()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """So does what a file of tests imported and left."""
    done = yield
    if nextitem is None or nextitem.path != item.path:
        _settle()
    return done


def _settle() -> None:
    """Take what is in memory out of the collector's sight; what nobody holds is gone before."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights: $STRATATUNE_SHARED, or `shared` beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data: {SHARED} is not a folder (set STRATATUNE_SHARED)")
    return SHARED


@pytest.fixture(scope="session", params=["bert", "roberta"])
def family(request: pytest.FixtureRequest) -> str:
    """Runs a test once for each family of architectures."""
    return request.param


@pytest.fixture(scope="session")
def tokenizer(family: str) -> Any:
    """The tokenizer of the family's tiny model."""
    import tiny

    return tiny.tiny_tokenizer(family)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Gives ``tiny_folder(family="bert", kind="mlm", **settings)``: a saved tiny model, each saved once a session."""
    import tiny

    made: dict[str, Path] = {}

    def folder(family: str = "bert", kind: str = "mlm", **settings: Any) -> Path:
        name = "-".join([family, kind, *(f"{key}={value}" for key, value in sorted(settings.items()))])
        if name not in made:
            made[name] = tmp_path_factory.mktemp(f"{family}-{kind}")
            tiny.save_tiny(made[name], family, kind, **settings)  # pyright: ignore[reportArgumentType]
        return made[name]

    return folder


@pytest.fixture
def inline_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    """``stratatune grid`` trains its runs in this process."""
    from gridding import Inline

    monkeypatch.setattr("stratatune.studies.grid.engines.LocalEngine", Inline)
