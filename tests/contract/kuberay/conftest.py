"""A stand-in of the API server for each test, and who asks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.adapters.capacity.kuberay.api import (
    KubeAddress,
    KubeApi,
)
from tests.contract.kube_stand_in import Kube, StandIn, ray_cluster, worker_group
from tests.contract.kuberay.world import TOKEN, MakeApi, World


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    kube = Kube(TOKEN)
    kube.put("rayclusters", ray_cluster("harbour", worker_group("cpu"), worker_group("h100", 2, 0, 4)))
    made = StandIn(kube)
    yield made
    made.close()


@pytest.fixture
def world(tmp_path: Path, stand_in: StandIn) -> Iterator[World]:
    made = World(tmp_path, stand_in)
    yield made
    made.close()


@pytest.fixture
def api_of(tmp_path: Path) -> Iterator[MakeApi]:
    made: list[KubeApi] = []

    def make(stand_in: StandIn, **more: Any) -> KubeApi:
        (tmp_path / "token").write_text(TOKEN)
        where = KubeAddress(url=stand_in.url, token_file=tmp_path / "token", **more)
        made.append(KubeApi(lambda: where, watch_s=1))
        return made[-1]

    yield make
    for one in made:
        one.close()
