"""Every database the ledger supports: SQLite always, PostgreSQL where its binaries are (`-k sqlite` leaves it out)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ledger.postgres import Server, binaries
from tests.ledger.world import World, sqlite


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if binaries() is None:
        pytest.skip("no PostgreSQL server on this machine")
    with Server(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.cluster)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite(tmp_path)
    server: Server = request.getfixturevalue("postgres_server")
    return server.fresh()


@pytest.fixture
def world(url: str) -> Iterator[World]:
    made = World(url)
    yield made
    made.ledger.database.close()
