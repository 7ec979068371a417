"""Around the decision: standing, headroom, counters, and the Cluster's keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policy.lending.decide import Sample
from orchestrator.policy.lending.from_spec import Measured, terms_of
from orchestrator.policy.lending.headroom import headroom_of
from orchestrator.policy.lending.rates import Counter, demand_between
from orchestrator.policy.lending.standing import apply, settle
from orchestrator.policy.lending.values import (
    Emergency,
    Lend,
    LendingReason,
    Loan,
    Recall,
    RecallTimes,
    Return,
    SlowStop,
    Standing,
)
from orchestrator.spec import Cluster, load_one
from tests.policy.lending.worlds import TIMES, terms

EXAMPLE = "cluster-configs/examples/cluster.yaml"


def test_headroom_is_what_serves_and_what_comes_back() -> None:
    back = Return(serves_at_s=9.0, replicas=3, called_s=0.0)
    standing = Standing(serving=7, loans=(Loan(0.0, 10),), returns=(back,))
    assert headroom_of([(terms(), standing)]) == {"gpu": 10}
    assert headroom_of([(terms(), standing)], leased={"gpu": 7}) == {"gpu": 3}
    assert headroom_of([(terms(), standing)], leased={"gpu": 12}) == {"gpu": 0}


def test_headroom_of_endpoints_in_one_pool_adds_up_in_devices() -> None:
    two = terms(devices=9, devices_per_replica=2)
    assert headroom_of(
        [(two, Standing(serving=4)), (terms(), Standing(serving=20)), (terms(pool="p"), Standing(serving=20))]
    ) == {
        "gpu": 28,
        "p": 20,
    }


def test_a_standing_that_lost_replicas_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        headroom_of([(terms(), Standing(serving=19))])


@given(
    loans=st.lists(st.tuples(st.floats(0, 100), st.integers(1, 5)), min_size=1, max_size=5),
    share=st.floats(0, 1),
    hurry=st.booleans(),
)
def test_no_replica_is_lost_or_made_and_the_oldest_loans_come_first(
    loans: list[tuple[float, int]], share: float, hurry: bool
) -> None:
    standing = Standing(serving=3, loans=tuple(Loan(*loan) for loan in loans))
    called = int(share * standing.lent)
    kind = Emergency if hurry else Recall
    decision = kind(replicas=called, reason=LendingReason.DEMAND_RISES, detail="")
    after = apply(standing, decision, terms(), now_s=200.0)
    assert (after.lent, after.returning) == (standing.lent - called, called)
    if after.loans and called:
        gone_s = [loan.since_s for loan in sorted(standing.loans)][: len(standing.loans) - len(after.loans) + 1]
        assert min(loan.since_s for loan in after.loans) >= min(gone_s)
    back = settle(after, now_s=200.0 + (TIMES.emergency_s if hurry else TIMES.lead_s))
    assert back.serving == 3 + called


def test_lending_takes_from_what_serves() -> None:
    lend = Lend(replicas=4, until_s=9.0, reason=LendingReason.SPARE_FOR_A_SLICE, detail="")
    after = apply(Standing(serving=5), lend, terms(), now_s=1.0)
    assert (after.serving, after.loans) == (1, (Loan(1.0, 4),))
    with pytest.raises(AssertionError):
        apply(Standing(serving=3), lend, terms(), now_s=1.0)


def test_demand_is_the_sum_of_the_replicas_rates() -> None:
    before = (Counter(source="a", at_s=0.0, total=100.0), Counter(source="b", at_s=0.0, total=50.0))
    after = (
        Counter(source="a", at_s=10.0, total=200.0),  # 10/s
        Counter(source="b", at_s=10.0, total=20.0),  # began anew: 2/s
        Counter(source="c", at_s=10.0, total=1000.0),  # new: no rate yet
    )
    assert demand_between(before, after) == Sample(at_s=10.0, rps=12.0)
    assert demand_between((), after) is None
    assert demand_between(after, after) is None


def test_terms_come_from_the_cluster_and_what_was_measured() -> None:
    cluster = load_one(EXAMPLE, Cluster)
    facts = Measured(pool="own-rack", devices=16, replica_rps=5.0, times=TIMES, timezone="Europe/Berlin")
    found = terms_of(cluster, facts)
    assert found is not None
    # recall_lead: 4m stands in the file: the drain takes what snapshot and cold start leave of it.
    assert (found.times.lead_s, found.times.cold_start_s, found.times.drain_s) == (240.0, 180.0, 30.0)
    assert (found.min_slice_s, found.jump_margin, found.history_s) == (1800.0, 0.25, 1_209_600.0)
    assert [window.name for window in found.windows] == ["offpeak", "weekend"]
    assert found.grace_s == 120.0


@pytest.mark.parametrize(
    ("left_s", "slow", "lead_s", "whose"),
    [
        (0.0, None, 240.0, None),
        (60.0, SlowStop(job="j", stop_s=60.0), 240.0, None),
        (100.0, SlowStop(job="j", stop_s=90.0), 280.0, None),
        (100.0, SlowStop(job="j", stop_s=300.0), 480.0, "j"),
    ],
    ids=["nothing was measured", "as fast as meant", "earlier recalls took longer", "who trains now takes longer"],
)
def test_devices_are_called_back_earlier_where_training_lets_go_more_slowly_than_was_meant(
    left_s: float, slow: SlowStop | None, lead_s: float, whose: str | None
) -> None:
    """recall_lead: 4m, of which a cold start takes three: a minute is left for a stop and its snapshot."""
    times = RecallTimes(snapshot_s=30.0, drain_s=30.0, cold_start_s=180.0, left_s=left_s)
    facts = Measured(pool="own-rack", devices=16, replica_rps=5.0, times=times, slow=slow)
    found = terms_of(load_one(EXAMPLE, Cluster), facts)
    assert found is not None
    assert found.times.lead_s == lead_s
    assert (found.late is None) == (lead_s == 240.0)
    if found.late is not None:
        assert (found.late.allowed_s, found.late.took_s - found.late.allowed_s) == (60.0, lead_s - 240.0)
        assert found.late.job == whose


def test_a_pool_that_is_not_named_is_not_lent() -> None:
    cluster = load_one(EXAMPLE, Cluster)
    times = RecallTimes(snapshot_s=1.0, drain_s=1.0, cold_start_s=1.0)
    assert terms_of(cluster, Measured(pool="h100-kube", devices=8, replica_rps=5.0, times=times)) is None


def test_an_operators_lead_below_the_cold_start_leaves_no_drain() -> None:
    cluster = load_one(EXAMPLE, Cluster)
    slow = RecallTimes(snapshot_s=20.0, drain_s=60.0, cold_start_s=600.0)
    found = terms_of(cluster, Measured(pool="own-rack", devices=16, replica_rps=5.0, times=slow))
    assert found is not None
    assert (found.times.drain_s, found.times.lead_s) == (0.0, 620.0)
