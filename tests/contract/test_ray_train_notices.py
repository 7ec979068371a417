"""A node's notices on their way to driver and Ray: what a node listens to, and what becomes of what it hears."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from jobs.train.notices.machine import has_accelerator
from orchestrator.adapters.ray_train.notice_desk import NoticeDesk, NoticePlan, notice_config
from orchestrator.adapters.ray_train.protocol import Announced
from tests.train.notices.conftest import metadata  # noqa: F401 - a fixture
from tests.train.notices.servers import Asked, Said, json_said

QUICK = NoticePlan(poll_s=0.01)


def config(environment: dict[str, str], plan: NoticePlan = QUICK, cloud: Any = None) -> Any:
    return notice_config(plan, environment, "127.0.0.1", cloud=lambda: cloud)


@pytest.mark.parametrize(
    ("environment", "cloud", "sources"),
    [
        ({}, None, ()),
        ({}, "gcp", ("gcp",)),
        ({"TIDE_NOTICES": "none"}, "gcp", ()),
        ({"TIDE_NOTICES": "aws, file", "TIDE_NOTICE_FILE": "/run/notice"}, "gcp", ("aws", "file")),
        ({"TIDE_NOTICE_FILE": "/run/notice"}, "aws", ("aws", "file")),
        ({"TIDE_PRESTOP_PORT": "9001", "TIDE_PRESTOP_TOKEN": "t"}, None, ("kubernetes",)),
    ],
)
def test_a_node_listens_to_what_it_is_told_or_to_the_cloud_it_belongs_to(
    environment: dict[str, str], cloud: str | None, sources: tuple[str, ...]
) -> None:
    assert config(environment, cloud=cloud).sources == sources


@pytest.mark.parametrize(("device", "notice_s"), [("", 60.0), ("nvidia0", 3600.0), ("accel0", 3600.0)])
def test_google_announces_maintenance_an_hour_ahead_where_machines_cannot_move(
    tmp_path: Path, device: str, notice_s: float
) -> None:
    (tmp_path / "nvidiactl").touch()  # a driver without a device
    if device:
        (tmp_path / device).touch()
    found = notice_config(QUICK, {}, "127.0.0.1", cloud=lambda: "gcp", accelerated=lambda: has_accelerator(tmp_path))
    assert found.maintenance_s == notice_s


def test_the_run_says_where_to_listen_unless_the_node_does() -> None:
    plan = NoticePlan(sources=("azure",))
    assert config({}, plan, "gcp").sources == ("azure",)
    assert config({"TIDE_NOTICES": "aws"}, plan, "gcp").sources == ("aws",)


def test_a_relative_file_lies_in_the_nodes_own_folder() -> None:
    environment = {"TIDE_NOTICE_FILE": "notice", "TIDE_NODE_DIR": "/node"}
    assert config(environment).file == Path("/node/notice")


def test_a_hook_is_answered_before_the_grace_period_ends() -> None:
    found = config({"TIDE_PRESTOP_PORT": "9001", "TIDE_PRESTOP_TOKEN": "t", "TIDE_NOTICE_DEADLINE_S": "60"})
    assert (found.deadline_s, found.hook.hold_s, found.signals) == (60.0, 55.0, False)


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"TIDE_NOTICES": "awz"}, "TIDE_NOTICES: 'awz' announces nothing"),
        ({"TIDE_PRESTOP_PORT": "9001"}, "TIDE_PRESTOP_TOKEN: is missing"),
        ({"TIDE_NOTICE_DEADLINE_S": "soon"}, "TIDE_NOTICE_DEADLINE_S: 'soon' is no number"),
        ({"TIDE_NOTICE_DEADLINE_S": "nan"}, "TIDE_NOTICE_DEADLINE_S: 'nan' is no number"),
    ],
)
def test_a_wrong_environment_is_named(environment: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        config(environment)


class Ends:
    """Driver and Ray, as the desk sees them."""

    def __init__(self, refusals: int = 0) -> None:
        self.announced: list[Announced] = []
        self.drained: list[tuple[float | None, str]] = []
        self.heard = threading.Event()
        self._refusals = refusals

    def announce(self, announced: Announced) -> None:
        self.announced.append(announced)
        if announced.advisory:
            self.heard.set()

    def drain(self, deadline_s: float | None, reason: str) -> None:
        if self._refusals:
            self._refusals -= 1
            raise ConnectionError("the control store does not answer")
        self.drained.append((deadline_s, reason))
        self.heard.set()


def listen(ends: Ends, environment: dict[str, str], **urls: str) -> NoticeDesk:
    found = config(environment)
    if urls:
        fields = {name: getattr(found, name) for name in found.__slots__}
        found = type(found)(**{**fields, "urls": urls})
    return NoticeDesk("n", found, announce=ends.announce, drain=ends.drain)


@pytest.fixture
def noticed(tmp_path: Path) -> dict[str, str]:
    """The environment of a node whose notice file exists."""
    (tmp_path / "notice").write_text("60")
    return {"TIDE_NODE_DIR": str(tmp_path), "TIDE_NOTICE_FILE": "notice"}


def test_a_notice_reaches_the_driver_and_ray_with_its_deadline(noticed: dict[str, str]) -> None:
    ends = Ends()
    desk = listen(ends, noticed)
    assert ends.heard.wait(20)
    desk.close()
    (announced,) = ends.announced
    assert announced.ends_at_s is not None
    assert 0 < announced.ends_at_s - announced.at_s <= 60
    assert ends.drained[0][0] == pytest.approx(announced.ends_at_s - announced.at_s)


def test_a_drain_that_ray_does_not_hear_is_asked_for_again(noticed: dict[str, str]) -> None:
    ends = Ends(refusals=2)
    desk = listen(ends, noticed)
    assert ends.heard.wait(20)
    desk.close()
    assert len(ends.announced) == 3
    assert len(ends.drained) == 1


def test_a_rebalance_recommendation_is_told_and_drains_nothing(metadata: Any) -> None:  # noqa: F811
    def aws(asked: Asked) -> Said:
        if asked.path == "/latest/api/token":
            return Said(body=b"T")
        is_rebalance = asked.path.endswith("rebalance")
        return json_said({"noticeTime": "2026-11-28T00:00:00Z"}) if is_rebalance else Said(404)

    ends = Ends()
    desk = listen(ends, {"TIDE_NOTICES": "aws"}, aws=metadata(aws).url)
    assert ends.heard.wait(20)
    desk.close()
    assert [announced.advisory for announced in ends.announced] == [True]
    assert not ends.drained
