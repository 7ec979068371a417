"""One warm stem and one tiny data set for all tests that start ranks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.data import pack
from jobs.train.forkserver import ForkServer, ForkServerStarter


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed data set of a few kilobytes."""
    source, home = tmp_path_factory.mktemp("texts"), tmp_path_factory.mktemp("home")
    for number in range(20):
        (source / f"{number:02}.txt").write_text(f"the quick brown fox {number} jumps over the lazy dog\n" * 60)
    return pack(source, name="tiny", home=home).folder


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A private folder whose path is short enough for a unix socket, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="tide-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def stem() -> Iterator[ForkServer]:
    """A warm fork server for the whole session; about 7 s once, then 0.5 s a group."""
    with tempfile.TemporaryDirectory(prefix="tide-stem-") as folder:
        server = ForkServer(Path(folder))
        server.warm(timeout_s=120)
        yield server
        server.close()


@pytest.fixture(scope="session")
def forked(stem: ForkServer) -> ForkServerStarter:
    """Starts ranks from the session's stem."""
    return ForkServerStarter(stem.socket_path)
