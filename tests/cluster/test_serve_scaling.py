"""Endpoints that change while they answer, on real Ray Serve: weights, replicas that leave, tiers with replicas of
their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from jobs.models.load import ModelConfig, save_model
from jobs.models.task import load_task
from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
from orchestrator.adapters.ray_serve import Deployed, deploy
from orchestrator.adapters.ray_serve.autoscale import write_lease
from orchestrator.registry import Provenance, Registry
from orchestrator.spec import Endpoint, UserError, load_text
from tests.serving.batch.worlds import line
from tests.serving.worlds import TINY, tiny_model

pytestmark = pytest.mark.cluster

WIDER = {**TINY, "d_model": 64}
HEAD = "apiVersion: tideline/v1\nkind: Endpoint\nmetadata: {name: tiny}\n"
TORCH = f"""{HEAD}
spec:
  model: tiny-gpt@champion
  listen: {{port: 0}}
  engine: {{slots: 4}}
  replicas: {{min: 1, max: 2}}
  tiers: {{interactive: {{slo: {{latency: 60s}}}}}}
"""
DEDICATED = f"""{HEAD}
spec:
  model: tiny-gpt@1
  listen: {{port: 0, max_body: 64KiB}}
  engine: {{name: echo, slots: 4}}
  limits: {{requests_per_min: 100000}}
  placement: dedicated
  replicas: {{drain: 2s}}
  tiers: {{keystroke: {{slo: {{latency: 60s}}}}, batch: {{}}}}
"""
# 120 tokens take 3.6 s, longer than the drain time; and a row whose lease runs out, because nobody gave it back, is a
# failed row.
NUM_TOKENS = 120
LEAVING = f"""{HEAD}
spec:
  model: tiny-gpt@1
  listen: {{port: 0}}
  engine: {{name: echo, slots: 16, step_time: 30ms}}
  replicas: {{min: 2, max: 2, drain: 1s}}
  tiers: {{interactive: {{slo: {{latency: 60s}}}}, batch: {{retries: 0}}}}
"""


def endpoint(text: str) -> Endpoint:
    (loaded,) = load_text(text)
    assert isinstance(loaded, Endpoint)
    return loaded


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Two versions, of which the first is the champion, and a third one of another shape."""
    home = tmp_path_factory.mktemp("home")
    registry = Registry(home / "models")
    for seed in range(2):
        registry.register("tiny-gpt", tiny_model(home / "built" / str(seed), seed), Provenance(run=str(seed)))
    wider = load_task("jobs.models.gpt:task", WIDER).build_model()
    folder = save_model(wider, ModelConfig(task="jobs.models.gpt:task", args=WIDER), home / "built" / "wider")
    registry.register("tiny-gpt", folder, Provenance(run="wider"))
    registry.set_alias("tiny-gpt@1", "champion")
    return registry


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster((NodeSize(num_cpus=5),)) as cluster:
        yield cluster


def ask(url: str) -> str:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        answer = client.completions.create(model="tiny-gpt", prompt="def f(", temperature=0, max_tokens=24)
        return answer.choices[0].text


def test_weights_follow_the_alias_without_a_restart(cluster: LocalCluster, registry: Registry) -> None:
    deployed = deploy(endpoint(TORCH), registry)
    try:
        before, steps = ask(deployed.url), _steps(deployed)
        assert not deployed.refresh()
        registry.set_alias("tiny-gpt@2", "champion")
        assert deployed.refresh()
        assert (deployed.ref, httpx.get(f"{deployed.url}/readyz").json()["model"]) == ("tiny-gpt@2", "tiny-gpt@2")
        assert ask(deployed.url) != before
        assert _steps(deployed) > steps  # the same process counts on
        registry.set_alias("tiny-gpt@3", "champion")
        with pytest.raises(UserError, match="tiny-gpt@3 cannot be served"):
            deployed.refresh()
        assert not deployed.refresh()  # said once
        assert (deployed.ref, httpx.get(f"{deployed.url}/readyz").json()["model"]) == ("tiny-gpt@2", "tiny-gpt@2")
        registry.set_alias("tiny-gpt@1", "champion")
        assert deployed.refresh()
        assert ask(deployed.url) == before
        assert _steps(deployed) > steps
    finally:
        deployed.close()


def test_tiers_with_replicas_of_their_own_answer_during_a_rolling_update(
    cluster: LocalCluster, registry: Registry, tmp_path: Path
) -> None:
    deployed = deploy(endpoint(DEDICATED), registry)
    try:
        assert deployed.urls == {tier: f"{deployed.url}/{tier}" for tier in ("keystroke", "batch")}
        tiers = {tier: _service_tier(url) for tier, url in deployed.urls.items()}
        assert tiers == {"keystroke": "priority", "batch": "flex"}
        nowhere = httpx.post(f"{deployed.url}/v1/completions", json={})  # the tier is missing: no replica is asked
        assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (404, "unknown_url")
        with OpenAI(base_url=f"{deployed.urls['batch']}/v1", api_key="none", max_retries=0) as client:
            rows = b"".join(line(f"r{i}", body={"model": "tiny-gpt", "prompt": "x" * 400}) for i in range(200))
            assert len(rows) > 64 * 1024  # files have a limit of their own below a tier's path, too
            file = client.files.create(file=("in.jsonl", rows), purpose="batch")
            batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
        statuses, done = [], threading.Event()

        def keep_asking() -> None:
            while not done.wait(0.02):
                body = {"model": "tiny-gpt", "prompt": "x", "max_tokens": 2}
                statuses.append(httpx.post(f"{deployed.urls['keystroke']}/v1/completions", json=body).status_code)

        asking = threading.Thread(target=keep_asking)
        asking.start()
        try:
            deployed.update(endpoint(DEDICATED.replace("slots: 4", "slots: 5").replace("tiny-gpt@1", "tiny-gpt@2")))
        finally:
            done.set()
            asking.join()
        assert deployed.ref == "tiny-gpt@2"
        assert set(statuses) == {200}
        with OpenAI(base_url=f"{deployed.urls['batch']}/v1", api_key="none", max_retries=0) as client:
            while (batch := client.batches.retrieve(batch.id)).status == "in_progress":
                time.sleep(0.05)
        assert (batch.status, batch.request_counts and batch.request_counts.completed) == ("completed", 200)
    finally:
        deployed.close()


def test_answers_and_rows_outlive_the_replica_that_has_them(cluster: LocalCluster, registry: Registry) -> None:
    deployed = deploy(endpoint(LEAVING), registry)
    try:
        _leave_while_it_answers(deployed)
    finally:
        deployed.close()


def _leave_while_it_answers(deployed: Deployed) -> None:
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
        _until(lambda: deployed.num_answering() == 1)
        asking += begin()
        assert {answer.result() for answer in asking} == {"abc" * 40}

        asking = begin()
        deployed.update(endpoint(LEAVING.replace("slots: 16", "slots: 17")))
        assert {answer.result() for answer in asking} == {"abc" * 40}

        while (batch := client.batches.retrieve(batch.id)).status == "in_progress":
            time.sleep(0.1)
        counts = batch.request_counts
        assert (batch.status, batch.error_file_id, counts and counts.completed) == ("completed", None, 40)


def _service_tier(url: str) -> str:
    body = {"model": "tiny-gpt", "prompt": "x", "max_tokens": 2}
    return str(httpx.post(f"{url}/v1/completions", json=body).json()["service_tier"])


def _steps(deployed: Deployed) -> float:
    lines = httpx.get(f"{deployed.url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("tide_serving_steps_total"))


def _until(holds: Callable[[], bool]) -> None:
    """Look again until it holds; the suite's timeout ends a wait for nothing."""
    while not holds():
        time.sleep(0.05)
