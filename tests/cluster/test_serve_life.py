"""An endpoint's life on real Ray Serve: a bad version on trial, too much work, a smaller lease, a node that goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch
from openai import OpenAI
from ray._private.state import available_resources_per_node

from jobs.models.load import load_model, save_model
from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
from orchestrator.adapters.ray_serve import deploy
from orchestrator.adapters.ray_serve.autoscale import write_lease
from orchestrator.registry import Provenance, Registry
from orchestrator.spec import Endpoint, load_text
from tests.serving.batch.worlds import line
from tests.serving.worlds import tiny_model

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(180)]

HEAD = "apiVersion: tideline/v1\nkind: Endpoint\nmetadata: {name: tiny}\n"
ON_TRIAL = f"""{HEAD}
spec:
  model: tiny-gpt@1
  listen: {{port: 0}}
  engine: {{slots: 4, max_context: 2000}}
  replicas: {{min: 1, max: 2, drain: 2s}}
  tiers: {{interactive: {{slo: {{latency: 60s}}, max_tokens: 400}}}}
  canary: {{model: tiny-gpt@2, weight: 0.5, rollback: {{error_rate: 0.02}}}}
"""
ELSEWHERE = f"""{HEAD}
spec:
  model: tiny-gpt@1
  listen: {{port: 0}}
  engine: {{name: echo, slots: 4, step_time: 30ms}}
  replicas: {{drain: 20s, resources: {{CPU: 1, custom: {{away: 1}}}}}}
  tiers: {{interactive: {{slo: {{latency: 60s}}}}, batch: {{}}}}
"""

AWAY = NodeSize(num_cpus=1, resources={"away": 1})


def endpoint(text: str) -> Endpoint:
    (loaded,) = load_text(text)
    assert isinstance(loaded, Endpoint)
    return loaded


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Two versions; the second one has no finite scores."""
    home = tmp_path_factory.mktemp("home")
    registry = Registry(home / "models")
    good = tiny_model(home / "good")
    registry.register("tiny-gpt", good, Provenance(run="good"))
    model, config = load_model(good)
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    registry.register("tiny-gpt", save_model(model, config, home / "bad"), Provenance(run="bad"))
    return registry


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster((NodeSize(num_cpus=2),)) as cluster:
        yield cluster


def until(holds: Callable[[], bool]) -> None:
    """Look again until it holds; the suite's timeout ends a wait for nothing."""
    while not holds():
        time.sleep(0.1)


def test_a_bad_canary_is_taken_back_and_a_busy_endpoint_grows_and_gives_back(
    cluster: LocalCluster, registry: Registry
) -> None:
    deployed = deploy(endpoint(ON_TRIAL), registry)
    try:
        with httpx.Client(base_url=deployed.url, timeout=60) as client, ThreadPoolExecutor(8) as pool:

            def ask(tokens: int) -> int:
                body = {"model": "tiny-gpt", "prompt": "def f(", "max_tokens": tokens}
                return client.post("/v1/completions", json=body).status_code

            statuses = list(pool.map(ask, [2] * 120))
            assert 0 < statuses.count(503) < 60  # a part of the trial's requests, and none of the others
            assert set(statuses) == {200, 503}
            assert deployed.refresh()
            assert deployed.canary_taken_back is not None
            assert deployed.canary_taken_back.startswith("errors")
            assert set(pool.map(ask, [2] * 40)) == {200}

            busy = threading.Event()
            asking = [pool.submit(_keep_asking, ask, busy) for _ in range(6)]
            until(lambda: deployed.num_answering() == 2)
            write_lease("tiny", 1)
            until(lambda: deployed.num_answering() == 1)
            busy.set()
            assert all(status == 200 for each in asking for status in each.result())
    finally:
        deployed.close()


def test_a_node_that_is_announced_to_go_returns_rows_and_finishes_what_is_waited_for(
    cluster: LocalCluster, registry: Registry
) -> None:
    nodes = [cluster.add_node(AWAY).node_id for _ in range(2)]
    deployed = deploy(endpoint(ELSEWHERE), registry)
    try:
        with OpenAI(base_url=f"{deployed.url}/v1", api_key="none", max_retries=0) as client:
            # Some seconds of rows: more than the first replica can have done when its node is announced to go.
            body = {"model": "tiny-gpt", "prompt": "a", "max_tokens": 8}
            rows = b"".join(line(f"r{i}", body=body) for i in range(60))
            file = client.files.create(file=("in.jsonl", rows), purpose="batch")
            batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
            stream = client.completions.create(model="tiny-gpt", prompt="abc", max_tokens=100, stream=True)
            text = next(iter(stream)).choices[0].text
            free = available_resources_per_node()
            (home,) = [node for node in nodes if not free[node].get("away")]
            cluster.drain_node(home, deadline_s=60.0)
            text += "".join(chunk.choices[0].text for chunk in stream)
            assert text == ("abc" * 34)[:100]
            announced_s = time.monotonic()
            while (batch := client.batches.retrieve(batch.id)).status == "in_progress":
                time.sleep(0.1)
            assert time.monotonic() - announced_s < 25  # nothing waited for a lease of 30 s to run out
            assert (batch.status, batch.error_file_id) == ("completed", None)
            assert batch.request_counts is not None
            assert batch.request_counts.completed == 60
    finally:
        deployed.close()


def _keep_asking(ask: Callable[[int], int], done: threading.Event) -> list[int]:
    statuses = []
    while not done.is_set():
        statuses.append(ask(300))
    return statuses
