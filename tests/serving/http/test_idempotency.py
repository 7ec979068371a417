"""One answer for one key: repeated, concurrent and contradicting requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx
import openai
import pytest
from openai import OpenAI

from serving.engine.echo import EchoEngine
from serving.engine.replica import Replica
from tests.serving.http.server import openai_client, served
from tests.serving.http.test_lifecycle import MANY, Pace, metric, until

BODY = {"model": "gpt-demo", "prompt": "abc", "max_tokens": 4}


@pytest.fixture
def paced() -> Iterator[tuple[str, Replica, Pace]]:
    pace = Pace()
    pace.running.set()
    with served(EchoEngine(before_step=pace, max_context=2 * MANY), max_tokens=MANY) as (url, replica):
        try:
            yield url, replica, pace
        finally:
            pace.running.set()


def ask(url: str, key: str | None = "k", path: str = "completions", **change: object) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return httpx.post(f"{url}/v1/{path}", json={**BODY, **change}, headers=headers)


def test_a_repeated_request_gets_the_first_answer_and_costs_nothing(paced: tuple[str, Replica, Pace]) -> None:
    url, _, pace = paced
    first, steps = ask(url, temperature=1.0), pace.steps
    again = ask(url, temperature=1.0)
    assert (again.json(), again.headers["idempotent-replayed"], pace.steps) == (first.json(), "true", steps)
    assert ask(url, key="other").json()["id"] != first.json()["id"]
    assert ask(url, key=None).json()["id"] != first.json()["id"]


def test_another_body_under_the_same_key_is_a_conflict(paced: tuple[str, Replica, Pace]) -> None:
    url, _, _ = paced
    ask(url)
    conflict = ask(url, prompt="xyz")
    assert (conflict.status_code, conflict.json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert conflict.headers["x-should-retry"] == "false"


def test_requests_that_meet_share_one_answer(paced: tuple[str, Replica, Pace]) -> None:
    url, _, pace = paced
    pace.running.clear()
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(ask(url).json()["id"])) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: pace.steps > 0)
    pace.running.set()
    for thread in threads:
        thread.join()
    assert (len(ids), len(set(ids))) == (3, 1)
    assert metric(url, "tide_serving_arrivals_total") == 1


def test_an_error_is_not_kept(paced: tuple[str, Replica, Pace]) -> None:
    url, _, pace = paced
    pace.running.clear()
    timed_out = httpx.post(f"{url}/v1/completions", json=BODY,
                           headers={"Idempotency-Key": "k", "x-request-timeout-seconds": "0.05"})  # fmt: skip
    pace.running.set()
    assert (timed_out.status_code, ask(url).status_code) == (408, 200)


def test_the_client_retries_by_default_and_gets_its_answer(paced: tuple[str, Replica, Pace]) -> None:
    """The real client with its own retries: a 429 with retry-after-ms is mended by it, a 408 of ours is not."""
    url, _, pace = paced
    with OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        assert client.completions.create(**BODY).choices[0].text == "abca"  # type: ignore[call-overload]
        pace.running.clear()
        with pytest.raises(openai.APIStatusError) as late:
            client.completions.create(**BODY, extra_headers={"x-request-timeout-seconds": "0.05"})  # type: ignore[call-overload]
        pace.running.set()
        assert late.value.status_code == 408
        assert metric(url, "tide_serving_arrivals_total") == 2


def test_a_key_that_is_too_long_is_named(paced: tuple[str, Replica, Pace]) -> None:
    url, _, _ = paced
    error = ask(url, key="k" * 257).json()["error"]
    assert error["param"] == "Idempotency-Key"


def test_streams_are_not_kept(paced: tuple[str, Replica, Pace]) -> None:
    url, _, _ = paced
    with openai_client(url) as client:
        made = [
            list(client.completions.create(**BODY, stream=True, extra_headers={"Idempotency-Key": "s"}))  # type: ignore[call-overload]
            for _ in range(2)
        ]
    assert made[0][0].id != made[1][0].id
