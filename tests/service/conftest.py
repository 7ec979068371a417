"""A control plane without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ledger.world import World, sqlite


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(sqlite(tmp_path))
    yield made
    made.ledger.database.close()
