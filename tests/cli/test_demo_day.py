"""The demo's day: where it comes from, what lending makes of it, and nodes that come and go as it says."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.cli.demo import day
from orchestrator.cli.demo.day import Spot
from orchestrator.cli.demo.day_plane import EVENING_S, REPLICAS, demand_rps, earlier, terms_of
from orchestrator.cli.demo.day_series import DRAWN, HOURS, RECORDED, DaySeries, drawn_day, find_day
from orchestrator.policy.lending.decide import Sample, decide_lending
from orchestrator.policy.lending.standing import apply, settle
from orchestrator.policy.lending.values import Standing
from orchestrator.spec.errors import UserError

CONFIGS = Path(__file__).resolve().parents[2] / "cluster-configs"


def test_the_recorded_day_is_played_where_it_is_and_the_drawn_one_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDE_DATA", str(tmp_path))
    assert find_day(CONFIGS).source == DRAWN
    rates, capacity = tmp_path / "serving-load", tmp_path / "h100-spot-13zone"
    rates.mkdir()
    capacity.mkdir()
    rows = [f"{at},{4 + (at % 86_400 > 43_200)}" for at in range(0, 3 * 86_400, 600)]
    (rates / "rate_600s.csv").write_text("t_seconds,m-small_rps\n" + "\n".join(rows) + "\n")
    first = dt.datetime(2025, 10, 5, tzinfo=dt.UTC)
    ticks = [(first + dt.timedelta(minutes=10 * at)).isoformat() + f",{60 + at // 6},0" for at in range(300)]
    (capacity / "capacity.csv").write_text("time,a,b\n" + "\n".join(ticks) + "\n")
    found = find_day(CONFIGS)
    assert found.source == RECORDED
    assert found.demand_at(0.0) == 1.0
    assert found.demand_at(6.0) == 4 / 5
    assert found.nodes == tuple([1] * int(HOURS))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hour,demand,nodes\n21,1.0,2\n", "1 hours; a day has 24"),
        ("hour,demand,nodes\n21,lots,2\n", "line 2: column 'demand': 'lots'"),
        ("hour,demand,nodes\n21,-1,2\n", "column 'demand': '-1'"),
        ("hour,demand\n21,1\n", "column 'nodes': None"),
    ],
)
def test_a_file_that_is_no_day_is_named_by_line_and_column(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "day.csv").write_text(text)
    with pytest.raises(UserError, match=r"day\.csv") as caught:
        drawn_day(tmp_path / "day.csv")
    assert words in str(caught.value)


def test_a_device_is_lent_in_the_drawn_night_and_is_back_before_the_morning_needs_it() -> None:
    series = drawn_day(CONFIGS / "days" / "drawn.csv")
    scale = HOURS * 3600 / day.SECONDS
    terms, memory, standing, lent = terms_of(scale), earlier(series, scale), Standing(serving=REPLICAS), []
    for tick in range(int(day.SECONDS)):
        now_s, rps = EVENING_S + tick * scale, demand_rps(series, tick * scale / 3600) / scale
        standing = settle(standing, now_s=now_s)
        decision, memory = decide_lending(terms, standing, memory, Sample(at_s=now_s, rps=rps), now_s=now_s)
        standing = apply(standing, decision, terms, now_s=now_s)
        lent.append(standing.lent)
        assert standing.serving >= terms.replicas_for(rps)
    assert max(lent) == 1
    assert lent[0] == lent[-1] == 0


@dataclass
class Cluster:
    """Nodes that are only counted."""

    did: list[tuple[str, str]] = field(default_factory=list)

    def add_node(self, size: object) -> SimpleNamespace:
        self.did.append(("add", f"n{len(self.did)}"))
        return SimpleNamespace(node_id=self.did[-1][1])

    def drain_node(self, node: str, *, deadline_s: float) -> None:
        self.did.append(("announce", node))

    def kill_node(self, node: str) -> None:
        self.did.append(("kill", node))


def test_a_node_that_leaves_is_announced_before_and_killed_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(day, "time", SimpleNamespace(monotonic=lambda: now_s))
    series = DaySeries(demand=((0.0, 1.0),), nodes=(2, 1, 1, 2), source="")
    cluster, scale = Cluster(), 360.0  # an hour in ten seconds, so that a notice is half an hour
    spot = Spot(cluster=cluster, series=series, scale=scale, say=lambda line: None)  # type: ignore[arg-type]
    spot.follow(0.0)
    assert [what for what, _ in cluster.did] == ["add", "add"]
    for now_s in (4.0, 6.0, 10.5, 20.0, 29.9, 30.0):
        spot.follow(now_s * scale / 3600)
    assert cluster.did[2:] == [("announce", "n1"), ("kill", "n1"), ("add", "n4")]
    assert (spot.there, spot.moved) == (2, 4)
