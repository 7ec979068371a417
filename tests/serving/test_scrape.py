"""A scrape finds all replicas behind one address, and no counter goes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp

from orchestrator.adapters.ray_serve.scrape import AllReplicas, merged
from serving.http.app import HttpConfig, assemble
from serving.http.keys import KeyRing, create_key
from tests.serving.http.server import running_service


def exposed(asked: int, *, with_waits: bool = True) -> str:
    registry = CollectorRegistry()
    counter = Counter("asked", "Requests, {braces} and all.", ["tier"], registry=registry)
    counter.labels('odd "name" {x="1"} ').inc(asked)
    if with_waits:
        Histogram("wait_seconds", "Waits.", buckets=(1.0,), registry=registry).observe(0.5)
    Counter("steps", "Steps.", registry=registry).inc(asked)
    return generate_latest(registry).decode()


def test_every_sample_names_its_replica_and_every_family_comes_once() -> None:
    text = merged({"b": exposed(2), "a": exposed(1, with_waits=False)})
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert text.count("# TYPE asked_total counter") == text.count("# TYPE wait_seconds histogram") == 1
    asked = {each.labels["replica"]: each for each in families["asked"].samples if each.name == "asked_total"}
    assert {name: (each.value, each.labels["tier"]) for name, each in asked.items()} == {
        "a": (1.0, 'odd "name" {x="1"} '),
        "b": (2.0, 'odd "name" {x="1"} '),
    }
    steps = {each.labels["replica"]: each.value for each in families["steps"].samples if each.name == "steps_total"}
    assert steps == {"a": 1.0, "b": 2.0}
    buckets = [each for each in families["wait_seconds"].samples if each.name == "wait_seconds_bucket"]
    assert {(each.labels["replica"], each.labels["le"]) for each in buckets} == {("b", "1.0"), ("b", "+Inf")}


@pytest.mark.parametrize("found", [{"x": "steps_total 5\n"}, {}])
def test_whoever_is_reached_answers_for_all_once_the_caller_is_let_in(tmp_path: Path, found: dict[str, str]) -> None:
    key, _ = create_key(tmp_path / "keys.json", tenant="t")
    asked = []

    async def ask_all() -> dict[str, str]:
        asked.append(1)
        return found

    async def scrape(app: ASGIApp) -> None:
        transport = httpx.ASGITransport(app=AllReplicas(app, ask_all))
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            assert (await client.get("/metrics")).status_code == 401
            assert asked == []
            answer = await client.get("/metrics", headers={"authorization": f"Bearer {key}"})
            assert answer.headers["content-type"].startswith("text/plain")
            assert ('steps_total{replica="x"} 5' in answer.text) == bool(found)
            assert ("tide_serving_steps_total 0.0" in answer.text) != bool(found)
            assert (await client.get("/healthz")).json() == {"status": "ok"}

    with running_service() as service:
        config = HttpConfig(max_body_bytes=1000, ring=KeyRing(tmp_path / "keys.json"))
        asyncio.run(scrape(assemble(service, config).app))
