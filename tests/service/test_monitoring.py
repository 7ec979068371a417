"""The alert rules of the control plane do what they say (promtool), on metrics that it really exports."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from orchestrator.service.metrics import PlaneMetrics
from tests.ledger.world import World, new

FOLDER = Path(__file__).parents[2] / "cluster-configs/monitoring"


@pytest.mark.parametrize(
    "command", [("check", "rules", "control-plane.rules.yaml"), ("test", "rules", "control-plane.test.yaml")]
)
def test_promtool_agrees_with_the_rules(command: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([promtool, *command], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_of_the_rules_is_exported(world: World) -> None:
    metrics = PlaneMetrics(world.ledger.read)
    registry = CollectorRegistry()
    registry.register(metrics)
    world.ledger.submit(new("a"))
    metrics.observe(world.cycle(), 0.01)
    text = generate_latest(registry).decode()
    exported = set(re.findall(r"^(?:# HELP )?(tide_\w+)[{ ]", text, re.MULTILINE))
    named = set(re.findall(r"tide_\w+", (FOLDER / "control-plane.rules.yaml").read_text()))
    assert named
    assert named <= exported
