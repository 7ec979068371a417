"""The alert rules do what they say (promtool), on metrics that a replica really exports."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from serving.engine.echo import EchoEngine
from serving.http.app import HttpConfig, assemble
from serving.policy import Tier
from tests.serving.http.server import running_service, serve_app
from tests.serving.http.test_lifecycle import metric

FOLDER = Path(__file__).parents[2] / "cluster-configs/monitoring"
BODY = {"model": "gpt-demo", "prompt": "abc", "max_tokens": 4}


@pytest.mark.parametrize("command", [("check", "rules"), ("test", "rules")])
def test_promtool_agrees_with_the_rules(command: tuple[str, str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    file = "serving-slo.rules.yaml" if command[0] == "check" else "serving-slo.test.yaml"
    done = subprocess.run([promtool, *command, file], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_of_the_rules_is_exported() -> None:
    named = set(re.findall(r"tide_serving_\w+", (FOLDER / "serving-slo.rules.yaml").read_text()))
    with running_service() as service:
        app = assemble(service, HttpConfig(max_body_bytes=1000, objectives={Tier.INTERACTIVE: 0.95})).app
        with serve_app(app) as url:
            httpx.post(f"{url}/v1/completions", json=BODY)
            text = httpx.get(f"{url}/metrics").text
            assert metric(url, "tide_serving_slo_objective", tier="interactive") == 0.95
    exported = set(re.findall(r"^# HELP (\w+) ", text, re.MULTILINE))
    assert named <= exported
    assert {"tier", "tenant"} >= set(re.findall(r"tide_serving_slo_requests_total{(\w+)=", text))


def test_each_way_to_end_is_counted_once() -> None:
    with running_service(EchoEngine()) as service, serve_app(_app(service)) as url:
        for _ in range(3):
            httpx.post(f"{url}/v1/completions", json=BODY)
        who = {"tier": "interactive", "tenant": "default"}
        counters = ["arrivals_total", "admitted_total", "slo_requests_total"]
        for name in [*counters, *(f"{each}_seconds_count" for each in ("ttft", "tpot", "e2e", "slack"))]:
            assert metric(url, f"tide_serving_{name}", **who) == 3, name
        assert metric(url, "tide_serving_slo_missed_total", **who) == 0
        assert metric(url, "tide_serving_step_budget_seconds_total") > 0


def _app(service):
    return assemble(service, HttpConfig(max_body_bytes=1000)).app
