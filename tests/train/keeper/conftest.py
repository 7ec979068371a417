from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.train.keeper.world import World


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes worlds of virtual nodes and closes them."""
    made: list[World] = []

    def make(**options: int) -> World:
        made.append(World(tmp_path / f"world{len(made)}", **options))
        return made[-1]

    yield make
    for world in made:
        world.close()
