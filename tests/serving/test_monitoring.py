"""The alert rules do what they say (promtool), on metrics that a replica really exports."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serving.engine.echo import EchoEngine
from serving.engine.rollout import Trial
from serving.http.app import HttpConfig, assemble
from serving.policy import Tier
from serving.policy.canary import CanaryRules
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


# What Prometheus and the endpoint's own scrape of all replicas add to every sample.
ADDED = {"job", "instance", "replica"}


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """Labels by name of sample, of a replica that was asked in every tier of the rules and refused somebody."""
    with running_service(EchoEngine()) as service:
        objectives = {Tier.KEYSTROKE: 0.99, Tier.INTERACTIVE: 0.95}
        app = assemble(service, HttpConfig(max_body_bytes=1000, objectives=objectives)).app
        with serve_app(app) as url:
            for tier in ("priority", "default", "flex"):
                assert httpx.post(f"{url}/v1/completions", json={**BODY, "service_tier": tier}).status_code == 200
            text = httpx.get(f"{url}/metrics").text
            assert metric(url, "tide_serving_slo_objective", tier="interactive") == 0.95
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    found: dict[str, set[str]] = {}
    for sample in samples:
        found.setdefault(sample.name, set()).update(sample.labels)
    for family in re.findall(r"^# TYPE (\w+) counter", text, re.MULTILINE):
        found.setdefault(family if family.endswith("_total") else f"{family}_total", set())
    return found


def test_every_metric_of_the_rules_is_exposed_with_the_labels_that_they_read(exposed: dict[str, set[str]]) -> None:
    rules = yaml.safe_load((FOLDER / "serving-slo.rules.yaml").read_text())
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    named = {name for text in expressions for name in re.findall(r"tide_serving_\w+", text)}
    assert named == {f"tide_serving_slo_{each}" for each in ("missed_total", "requests_total", "objective")}
    assert named <= exposed.keys()
    read = {label.strip() for text in expressions for names in re.findall(r"(?:by|on) \(([^)]*)\)", text)
            for label in names.split(",")}  # fmt: skip
    assert all(read - ADDED <= exposed[name] for name in named)


def test_every_metric_that_people_are_pointed_to_is_exposed(exposed: dict[str, set[str]]) -> None:
    rules = (FOLDER / "serving-slo.rules.yaml").read_text()
    assert set(re.findall(r"tide_serving_\w+", rules)) <= exposed.keys()
    section = (FOLDER.parents[1] / "docs/serving.md").read_text().partition("## Metrics and alerts")[2]
    listed = section.partition("`tide_serving_`")[2].partition(".\n")[0]
    names = {f"tide_serving_{name}" for name in re.findall(r"`(\w+)`", listed)}
    assert len(names) > 20
    families = {re.sub(r"_(total|bucket|sum|count|created)$", "", name) for name in exposed}
    assert names == families


def test_the_series_in_promtools_tests_are_such_as_are_exposed(exposed: dict[str, set[str]]) -> None:
    tests = yaml.safe_load((FOLDER / "serving-slo.test.yaml").read_text())["tests"]
    series = [one["series"] for test in tests for one in test["input_series"]]
    assert series
    for one in series:
        name, _, labels = one.partition("{")
        assert set(re.findall(r"(\w+)=", labels)) <= exposed[name] | ADDED, one


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


@pytest.mark.parametrize(("failed", "reason"), [(True, "errors"), (False, "slo_burn")])
def test_a_canary_that_was_taken_back_is_seen_with_what_it_was_judged_by(failed: bool, reason: str) -> None:
    rules = CanaryRules(weight=0.5, error_rate=0.02, burn_rate=6.0, after_s=0.0)
    with running_service(EchoEngine()) as service, serve_app(_app(service)) as url:
        rollout = service.replica.rollout

        def a_trial() -> None:
            rollout.begin(Trial(version="m@2", rules=rules, since_s=0.0))
            for version in [""] * 20 + ["m@2"] * 20:
                rollout.ended(version, failed=failed and version != "", missed_slo=version != "", now_s=1.0)
            rollout.begin(None)  # as it comes back from whoever was told

        service.replica.between_steps(a_trial)
        assert metric(url, "tide_serving_canary_rollbacks_total", version="m@2", reason=reason) == 1
        assert metric(url, "tide_serving_version_requests_total", version="stable") == 20
        assert metric(url, "tide_serving_version_failed_total", version="m@2") == 20 * failed
        assert metric(url, "tide_serving_version_slo_missed_total", version="m@2") == 20
