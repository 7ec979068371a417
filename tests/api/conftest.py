"""One application per test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.api.world import ApiWorld, api_world


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[ApiWorld, TestClient]]:
    with api_world(tmp_path) as found:
        yield found


@pytest.fixture
def world(made: tuple[ApiWorld, TestClient]) -> ApiWorld:
    return made[0]


@pytest.fixture
def client(made: tuple[ApiWorld, TestClient]) -> TestClient:
    return made[1]
