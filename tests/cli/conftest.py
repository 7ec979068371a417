"""A server for all tests of a module, and a state folder without one for a single test."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.control_server import Server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("TIDE_HOME", str(folder))
        for name in ("TIDE_SERVER", "TIDE_API_KEY", "TIDE_DATABASE"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    made = Server(home)
    process = made.start()
    yield made
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.fixture
def other(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("other")
    for name in ("TIDE_SERVER", "TIDE_API_KEY", "TIDE_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TIDE_HOME", str(folder))
    return folder
