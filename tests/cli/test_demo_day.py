"""The demo's day: where it comes from, what lending makes of it, and nodes that come and go as it says."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.adapters.endpoints.live import Lender, Seen
from orchestrator.cli.demo import day
from orchestrator.cli.demo.day import Spot
from orchestrator.cli.demo.day_plane import (
    CYCLE_S,
    EVENING_S,
    REPLICAS,
    TIMES,
    WINDOW_S,
    demand_rps,
    earlier,
    terms_of,
)
from orchestrator.cli.demo.day_series import DRAWN, HOURS, RECORDED, DaySeries, drawn_day, find_day
from orchestrator.policy.lending.rates import Counter
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


DAYS = [
    pytest.param(lambda: drawn_day(CONFIGS / "days" / "drawn.csv"), id="drawn"),
    pytest.param(lambda: find_day(CONFIGS), id="recorded"),
]


@pytest.mark.parametrize("series_of", DAYS)
def test_a_device_is_lent_for_long_enough_to_be_seen_and_is_back_before_the_morning_needs_it(
    series_of: Callable[[], DaySeries], request: pytest.FixtureRequest
) -> None:
    """As the live day measures demand: from counters, over a window that lags behind, a look in every cycle."""
    series = series_of()
    if "recorded" in request.node.name and series.source != RECORDED:
        pytest.skip("the recorded series are not here (TIDE_DATA)")
    scale = HOURS * 3600 / day.SECONDS
    terms, lender = terms_of(scale), Lender(earlier(series, scale), window_s=WINDOW_S * scale)
    came, serving, held, coming, lent_s = 0.0, REPLICAS, REPLICAS, list[tuple[float, int]](), 0.0
    for look in range(int(day.SECONDS / CYCLE_S)):
        at_s = look * CYCLE_S
        now_s, demand = EVENING_S + at_s * scale, demand_rps(series, at_s * scale / 3600)
        came += demand * CYCLE_S
        serving += sum(back for due_s, back in coming if due_s <= at_s)
        coming = [one for one in coming if one[0] > at_s]
        counters = (Counter(source="replica", at_s=now_s, total=float(int(came))),)
        lender.look(terms, Seen(counters=counters, answering=serving, held=held), now_s=now_s)
        if lender.owed > held:
            coming.append((at_s + TIMES.lead_s, lender.owed - held))
        serving -= max(0, held - lender.owed)
        held = lender.owed
        lent_s += CYCLE_S * (held < REPLICAS)
        assert serving >= terms.replicas_for(demand / scale)
    assert lent_s >= 2 * TIMES.lead_s, "too short for the job to grow on it and give it back"
    assert held == REPLICAS


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
