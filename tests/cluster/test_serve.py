"""A registered version on real Ray Serve, asked by the real `openai` client; and `tide serve` from start to Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import psutil
import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
from orchestrator.adapters.ray_serve import Deployed, deploy
from orchestrator.registry import Provenance, Registry
from orchestrator.spec import Endpoint, UserError, load_text
from orchestrator.spec.errors import ExitCode
from serving.http.keys import create_key
from tests.serving.batch.worlds import line
from tests.serving.certificates import write_certificate
from tests.serving.worlds import tiny_model

pytestmark = pytest.mark.cluster

ENDPOINT = """
apiVersion: tideline/v1
kind: Endpoint
metadata: {name: tiny}
spec:
  model: tiny-gpt@champion
  listen: {port: 0, max_body: 64KiB}
  engine: {slots: 4, max_context: 50000}
  tiers:
    keystroke: {slo: {latency: 60s}, max_tokens: 49000}
    interactive: {slo: {latency: 60s}, max_tokens: 49000}
    batch: {}
"""


def endpoint(text: str = ENDPOINT) -> Endpoint:
    (loaded,) = load_text(text)
    assert isinstance(loaded, Endpoint)
    return loaded


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with two versions of one model; the older is the champion."""
    home = tmp_path_factory.mktemp("home")
    registry = Registry(home / "models")
    for seed in range(2):
        registry.register("tiny-gpt", tiny_model(home / "built" / str(seed), seed), Provenance(run=str(seed)))
    registry.set_alias("tiny-gpt@1", "champion")
    return home


@pytest.fixture(scope="module")
def deployed(home: Path) -> Iterator[Deployed]:
    with LocalCluster((NodeSize(num_cpus=1),)):
        deployed = deploy(endpoint(), Registry(home / "models"))
        yield deployed
        deployed.close()


@pytest.fixture
def client(deployed: Deployed) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{deployed.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_alias_decides_which_version_answers(deployed: Deployed, client: OpenAI) -> None:
    assert (deployed.ref, deployed.model) == ("tiny-gpt@1", "tiny-gpt")
    assert [(model.id, model.version) for model in client.models.list()] == [("tiny-gpt", "tiny-gpt@1")]  # type: ignore[attr-defined]


def test_streamed_and_whole_answers_agree_across_tiers(client: OpenAI) -> None:
    texts = set()
    for tier in ("priority", "default", "flex"):
        ask = {"model": "tiny-gpt", "prompt": "def fibonacci(n):", "temperature": 0, "max_tokens": 20}
        whole = client.completions.create(**ask, extra_body={"service_tier": tier})  # type: ignore[call-overload]
        chunks = list(client.completions.create(**ask, stream=True, extra_body={"service_tier": tier}))  # type: ignore[call-overload]
        texts |= {whole.choices[0].text, "".join(chunk.choices[0].text for chunk in chunks)}
        assert (whole.usage.completion_tokens, whole.service_tier) == (20, tier)
    assert len(texts) == 1


def test_errors_keep_openais_shape_through_the_proxy(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="other", prompt="x")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as several:
        client.completions.create(model="tiny-gpt", prompt="x", n=2)
    assert several.value.param == "n"


def test_the_time_that_a_client_allows_ends_an_answer_in_the_replica_and_not_in_the_proxy(client: OpenAI) -> None:
    allow = {"x-request-timeout-seconds": "0.5"}
    ask = {"model": "tiny-gpt", "prompt": "x", "max_tokens": 49_000, "extra_headers": allow}
    with pytest.raises(openai.APIStatusError) as late:
        client.completions.create(**ask)  # type: ignore[call-overload]
    assert (late.value.status_code, late.value.code) == (408, "timeout")
    assert late.value.response.headers["x-should-retry"] == "false"  # or the client would ask again by itself
    *_, last = client.completions.create(**ask, stream=True)  # type: ignore[call-overload]
    assert last.choices[0].finish_reason == "timeout"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_gives_its_slot_back_through_the_proxy(deployed: Deployed, stream: bool) -> None:
    body = json.dumps({"model": "tiny-gpt", "prompt": "x", "max_tokens": 49_000, "stream": stream}).encode()
    host, port = deployed.url.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        _until(lambda: _rows_in_slots(deployed.url) == 1)
    _until(lambda: _rows_in_slots(deployed.url) == 0)


def test_a_cluster_that_serves_already_is_a_conflict(deployed: Deployed, home: Path) -> None:
    with pytest.raises(UserError) as conflict:
        deploy(endpoint(), Registry(home / "models"))
    assert conflict.value.code is ExitCode.CONFLICT
    assert httpx.get(f"{deployed.url}/readyz").json() == {"status": "ok", "model": "tiny-gpt@1"}


def test_files_and_batches_work_through_the_proxy(client: OpenAI, deployed: Deployed, home: Path) -> None:
    rows = b"".join(line(f"r{i}", body={"model": "tiny-gpt", "prompt": "a", "max_tokens": 3}) for i in range(8))
    file = client.files.create(file=("in.jsonl", rows), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    while (batch := client.batches.retrieve(batch.id)).status == "in_progress":
        time.sleep(0.05)
    assert (batch.status, batch.output_file_id is not None) == ("completed", True)
    answers = client.files.content(str(batch.output_file_id)).text.splitlines()
    assert [json.loads(each)["custom_id"] for each in answers] == [f"r{i}" for i in range(8)]
    assert (home / "batches" / "tiny.sqlite3").is_file()


def test_tide_serve_with_keys_and_tls_answers_until_ctrl_c_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    file, state = tmp_path / "endpoint.yaml", {**os.environ, "TIDE_HOME": str(home)}
    certificate, _ = write_certificate(tmp_path)
    key, _ = create_key(tmp_path / "keys.json", tenant="apps")
    listen = "listen: {port: 0, max_body: 64KiB, tls: {cert: cert.pem, key: key.pem}}"
    file.write_text(ENDPOINT.replace("listen: {port: 0, max_body: 64KiB}", f"{listen}\n  keys: keys.json"))
    command = [str(Path(sys.executable).with_name("tide")), "serve", str(file), "-o", "json"]
    with subprocess.Popen(command, env=state, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line_of_output in process.stdout:
            lines.append(line_of_output)
            if line_of_output.rstrip() == "}":
                break
        started = psutil.Process(process.pid).children(recursive=True)
        answer = json.loads("".join(lines))
        body = {"model": "tiny-gpt", "prompt": "a", "max_tokens": 3}
        assert answer["url"].startswith("https://127.0.0.1:")
        with httpx.Client(base_url=answer["url"], verify=ssl.create_default_context(cafile=certificate)) as secure:
            assert secure.post("/v1/completions", json=body).status_code == 401
            done = secure.post("/v1/completions", json=body, headers={"authorization": f"Bearer {key}"})
            assert done.json()["usage"]["completion_tokens"] == 3
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "stopped; registered models are kept" in errors
    assert key not in errors + "".join(lines)
    assert len(started) > 3
    assert [child for child in started if child.is_running()] == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(answer["url"].replace("https:", "http:"))


def _rows_in_slots(url: str) -> float:
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == "tide_serving_rows"]
    return sum(sample.value for sample in samples if sample.labels["state"] == "in_slot")


def _until(condition) -> None:
    """Ask again until it holds; the suite's timeout ends a wait for nothing."""
    while not condition():
        time.sleep(0)
