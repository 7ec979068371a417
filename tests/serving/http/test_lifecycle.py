"""Clients that leave, run out of time or come at a bad moment; and what the metrics say about them."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.engine.echo import EchoEngine
from serving.engine.replica import Replica
from serving.policy import Tier, TierTarget
from tests.serving.http.server import openai_client, served
from tests.serving.worlds import PATIENT

# Tokens that no test waits for: far more than are made before a client's leaving is noticed.
MANY = 1_000_000
LONG = {"model": "gpt-demo", "prompt": "abc", "max_tokens": 400}


class Pace:
    """Holds every engine step until the test lets it go; `steps` counts those that began."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.steps = 0

    def __call__(self) -> None:
        self.steps += 1
        self.running.wait()


@pytest.fixture
def paced() -> Iterator[tuple[str, Replica, Pace]]:
    pace = Pace()
    pace.running.set()
    with served(EchoEngine(num_slots=1, max_context=2 * MANY, before_step=pace), max_tokens=MANY) as (url, replica):
        try:
            yield url, replica, pace
        finally:
            pace.running.set()


def until(condition: Callable[[], bool]) -> None:
    """Yield to the other threads until the condition holds; the suite's own timeout ends a wait for nothing."""
    while not condition():
        time.sleep(0)


def metric(url: str, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return 0.0


def hang_up(url: str, body: dict[str, Any], when: Callable[[], bool], path: str = "/v1/completions") -> None:
    """Send a request and close the connection once `when` holds."""
    host, port = url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        until(when)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_gives_its_slot_back(paced: tuple[str, Replica, Pace], stream: bool) -> None:
    url, replica, pace = paced
    hang_up(url, {**LONG, "max_tokens": MANY, "stream": stream}, when=lambda: pace.steps > 3)
    until(lambda: replica.stats().rows[Tier.INTERACTIVE] == (0, 0))
    assert 0 < replica.stats().wasted_tokens < MANY
    with openai_client(url) as client:
        assert client.completions.create(model="gpt-demo", prompt="xy", max_tokens=2).choices[0].text == "xy"
    assert metric(url, "tide_serving_requests_total", outcome="disconnected") == 1


def test_a_tiers_timeout_ends_an_answer_with_what_it_has() -> None:
    pace = Pace()
    with served(EchoEngine(before_step=pace), timeout_s=0.05) as (url, _):
        with openai_client(url) as client:
            done = client.completions.create(**LONG)
        assert (done.choices[0].finish_reason, done.choices[0].text) == ("timeout", "")
        pace.running.set()


def test_a_clients_own_timeout_is_a_408_that_is_not_repeated() -> None:
    pace = Pace()
    with served(EchoEngine(before_step=pace)) as (url, _):
        response = httpx.post(f"{url}/v1/completions", json=LONG, headers={"x-request-timeout-seconds": "0.05"})
        assert (response.status_code, response.headers["x-should-retry"]) == (408, "false")
        assert response.json()["error"]["code"] == "timeout"
        pace.running.set()


def test_a_superseded_request_ends_with_200_and_says_so(paced: tuple[str, Replica, Pace]) -> None:
    """The session is the body's prompt_cache_key or, without one, the header x-session-id."""
    url, _, _ = paced
    with openai_client(url) as client:
        keystroke = {"service_tier": "priority", "prompt_cache_key": "editor"}
        old = client.completions.create(
            model="gpt-demo", prompt="abc", max_tokens=MANY, stream=True, extra_body=keystroke
        )
        next(iter(old))
        new = {**LONG, "max_tokens": 3, "service_tier": "priority"}
        assert httpx.post(f"{url}/v1/completions", json=new, headers={"x-session-id": "editor"}).status_code == 200
        assert list(old)[-1].choices[0].finish_reason == "superseded"


def test_refusals_reach_the_client_as_rate_limit_errors() -> None:
    none = dataclasses.replace(PATIENT, targets={Tier.INTERACTIVE: TierTarget(latency_s=600.0, max_waiting=0)})
    with served(config=none) as (url, _), openai_client(url) as client:
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as refused:
                client.completions.create(**LONG, stream=stream)
            assert refused.value.code == "queue_full"
            headers = refused.value.response.headers
            assert int(headers["retry-after"]) >= 1
            assert int(headers["retry-after-ms"]) >= 1
        assert metric(url, "tide_serving_requests_total", tier="interactive", outcome="queue_full") == 2


def test_metrics_count_answers_tokens_and_times() -> None:
    with served() as (url, _), openai_client(url) as client:
        client.completions.create(model="gpt-demo", prompt="abcd", max_tokens=6)
        assert metric(url, "tide_serving_requests_total", tier="interactive", outcome="length") == 1
        assert metric(url, "tide_serving_tokens_total", kind="prompt") == 4
        assert metric(url, "tide_serving_tokens_total", kind="completion") == 6
        assert metric(url, "tide_serving_e2e_seconds_count", tier="interactive") == 1
        assert metric(url, "tide_serving_ttft_seconds_count", tier="interactive") == 1
        assert metric(url, "tide_serving_steps_total") >= 6
