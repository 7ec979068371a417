"""A node that does not see what the run needs says so before anything starts there."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.adapters.ray_train import node_agent
from orchestrator.spec.errors import ExitCode, UserError


def test_a_home_that_a_node_does_not_see_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_agent.ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    node_agent.require_home((str(tmp_path),))
    with pytest.raises(UserError, match=r"node 10\.0\.0\.7: does not see .*/datasets.*all nodes see") as refused:
        node_agent.require_home((str(tmp_path), str(tmp_path / "datasets" / "corpus")))
    assert refused.value.code is ExitCode.UNREACHABLE
