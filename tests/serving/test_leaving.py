"""What a replica that leaves gives up, and when Serve may end it."""

from __future__ import annotations

import math

import pytest

from orchestrator.adapters.ray_serve.application import leave_timeout_s
from orchestrator.adapters.ray_serve.leaving import Departure, Leave, Signs
from tests.serving.test_deploy import endpoint

STOPPING = Signs(stopping=True)


def test_rows_go_back_at_once_and_batch_requests_after_the_drain_time() -> None:
    departure = Departure(drain_s=30.0)
    assert departure.give_up(Signs(), now_s=0.0) is Leave.NOTHING
    assert departure.give_up(STOPPING, now_s=100.0) is Leave.ROWS
    assert departure.give_up(STOPPING, now_s=129.9) is Leave.ROWS
    assert departure.give_up(STOPPING, now_s=130.0) is Leave.BATCH_REQUESTS


def test_a_node_that_goes_earlier_is_not_outlived() -> None:
    departure = Departure(drain_s=30.0)
    assert departure.give_up(Signs(node_goes_at_s=120.0), now_s=100.0) is Leave.ROWS
    assert departure.give_up(Signs(stopping=True, node_goes_at_s=120.0), now_s=110.0) is Leave.ROWS
    assert departure.give_up(Signs(stopping=True, node_goes_at_s=120.0), now_s=115.0) is Leave.BATCH_REQUESTS


def test_a_notice_without_a_time_waits_for_serve() -> None:
    """Until a successor answers Serve goes on sending requests here; to refuse them would help nobody."""
    departure = Departure(drain_s=30.0)
    announced = Signs(node_goes_at_s=math.inf)
    assert departure.give_up(announced, now_s=0.0) is Leave.ROWS
    assert departure.give_up(announced, now_s=1e9) is Leave.ROWS
    assert departure.give_up(Signs(stopping=True, node_goes_at_s=math.inf), now_s=1e9) is Leave.ROWS
    assert departure.give_up(Signs(stopping=True, node_goes_at_s=math.inf), now_s=1e9 + 30) is Leave.BATCH_REQUESTS


@pytest.mark.parametrize(
    ("spec", "promised_s"),
    [
        ("replicas: {drain: 2s}, tiers: {interactive: {slo: {latency: 1s}, timeout: 45s}, batch: {}}", 45.0),
        ("replicas: {drain: 90s}, tiers: {interactive: {slo: {latency: 1s}}, batch: {}}", 90.0),
        ("replicas: {drain: 2s}, tiers: {batch: {}}", 2.0),
    ],
)
def test_serve_ends_no_replica_before_its_longest_answer_can_be_over(spec: str, promised_s: float) -> None:
    assert leave_timeout_s(endpoint(spec)) > promised_s
