"""A registration killed at any file operation leaves the old state or the new one, and repeating it works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from orchestrator.registry import Registry
from tests.registry.models import PROVENANCE, model_folder


def test_a_kill_at_any_point_leaves_nothing_half_visible(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "source")
    command = [sys.executable, "-m", "tests.registry.crash", str(tmp_path), str(source)]
    num_points = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert num_points > 20
    survived = [_check_recovery(Registry(tmp_path / str(k)), source) for k in range(1, num_points + 1)]
    # The commit is one operation: every kill before it leaves nothing, every kill after it a whole version.
    assert survived == sorted(survived)
    assert {True, False} == set(survived)


def _check_recovery(registry: Registry, source: Path) -> bool:
    """Check the wreck, register again, check the result; returns whether the killed attempt had committed."""
    models = registry.models()
    for version in registry.versions("m") if models else ():
        assert registry.verify(version) == ()
    again = registry.register("m", source, PROVENANCE)
    assert again.number == 1
    assert registry.verify(again) == ()
    assert [entry.name for entry in (registry.root / "staging").iterdir()] == [".gate"]
    return bool(models)
