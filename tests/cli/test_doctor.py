"""`tide doctor` looks at the machine and fails only for what will not work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import doctor


def test_doctor_reports_every_check_as_json(tmp_path: Path) -> None:
    result = CliRunner().invoke(doctor.app, ["-o", "json"], env={"TIDE_HOME": str(tmp_path)})
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["kind"] == "Doctor"
    assert {"Python", "ray", "deepspeed", "torch", "shared memory"} <= {check["name"] for check in document["checks"]}


def test_foreign_ray_version_is_a_warning_with_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.0.0")
    check = doctor._package("ray")()
    assert check.state == "warn"
    assert "constraints.txt" in check.advice


def test_cluster_without_token_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert doctor._ray_token().state == "warn"


def test_something_that_will_not_work_exits_3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = doctor.Check(name="x", state="fail", found="nothing", advice="mend it")
    monkeypatch.setattr(doctor, "_CHECKS", (lambda: broken,))
    assert CliRunner().invoke(doctor.app, [], env={"TIDE_HOME": str(tmp_path)}).exit_code == 3


def test_ports_that_cannot_be_kept_off_the_network_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.adapters.ray_cluster.loopback.binds_loopback_only", lambda: False)
    check = doctor._ray_ports()
    assert (check.state, "every interface" in check.found) == ("warn", True)


def test_a_seam_that_does_not_hold_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.adapters.ray_train.seam_contract.broken", lambda: ("X is gone",))
    check = doctor._ray_train()
    assert (check.state, "X is gone" in check.found) == ("warn", True)
