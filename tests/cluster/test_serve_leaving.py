"""Replicas that leave in an orderly way, on real Ray Serve: every answer that was begun is finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from openai import OpenAI

from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
from orchestrator.adapters.ray_serve import Deployed, deploy
from orchestrator.adapters.ray_serve.autoscale import write_lease
from orchestrator.registry import Provenance, Registry
from orchestrator.spec import Endpoint, load_text
from tests.serving.batch.worlds import line
from tests.serving.worlds import tiny_model

pytestmark = pytest.mark.cluster

# 120 tokens take 3.6 s, longer than the drain time; and a row whose lease runs out, because nobody gave it back, is a
# failed row.
NUM_TOKENS = 120
ENDPOINT = """
apiVersion: tideline/v1
kind: Endpoint
metadata: {name: tiny}
spec:
  model: tiny-gpt@1
  listen: {port: 0}
  engine: {name: echo, slots: 16, step_time: 30ms}
  replicas: {min: 2, max: 2, drain: 1s}
  tiers: {interactive: {slo: {latency: 60s}}, batch: {retries: 0}}
"""


def endpoint(text: str = ENDPOINT) -> Endpoint:
    (loaded,) = load_text(text)
    assert isinstance(loaded, Endpoint)
    return loaded


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    home = tmp_path_factory.mktemp("home")
    registry = Registry(home / "models")
    registry.register("tiny-gpt", tiny_model(home / "built"), Provenance(run="r"))
    with LocalCluster((NodeSize(num_cpus=4),)):
        deployed = deploy(endpoint(), registry)
        yield deployed
        deployed.close()


def test_answers_and_rows_outlive_the_replica_that_has_them(deployed: Deployed) -> None:
    with OpenAI(base_url=f"{deployed.url}/v1", api_key="none", max_retries=0) as client, ThreadPoolExecutor(20) as pool:

        def ask(stream: bool) -> str:
            answer = client.completions.create(model="tiny-gpt", prompt="abc", max_tokens=NUM_TOKENS, stream=stream)
            if not stream:
                return answer.choices[0].text
            return "".join(chunk.choices[0].text for chunk in answer)

        def begin() -> list[Future[str]]:
            """Answers that are computed in both replicas by the time this returns."""
            asking = [pool.submit(ask, stream) for stream in (True, False) * 6]
            next(iter(client.completions.create(model="tiny-gpt", prompt="abc", max_tokens=2, stream=True)))
            return asking

        rows = b"".join(line(f"r{i}", body={"model": "tiny-gpt", "prompt": "a", "max_tokens": 150}) for i in range(40))
        file = client.files.create(file=("in.jsonl", rows), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")

        asking = begin()
        write_lease("tiny", 1)
        until(lambda: deployed.num_answering() == 1)
        asking += begin()
        assert {answer.result() for answer in asking} == {"abc" * 40}

        asking = begin()
        deployed.update(endpoint(ENDPOINT.replace("slots: 16", "slots: 17")))
        assert {answer.result() for answer in asking} == {"abc" * 40}

        while (batch := client.batches.retrieve(batch.id)).status == "in_progress":
            time.sleep(0.1)
        counts = batch.request_counts
        assert (batch.status, batch.error_file_id, counts and counts.completed) == ("completed", None, 40)


def until(holds: Callable[[], bool]) -> None:
    """Look again until it holds; the suite's timeout ends a wait for nothing."""
    while not holds():
        time.sleep(0.05)
