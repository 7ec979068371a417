"""How many replicas the promises need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.policy.scaling import ReplicaLoad, ScalingRules, ScalingState, replica_target

RULES = ScalingRules()
LOADS = st.lists(
    st.builds(ReplicaLoad, online_busy=st.floats(0, 1), slack=st.floats(-2, 1), shed=st.floats(0, 1)), max_size=8
)


def target(loads: list[ReplicaLoad], current: int, *, state: ScalingState = ScalingState(), now_s: float = 0.0,
           lowest: int = 1, highest: int = 10) -> tuple[int, ScalingState]:  # fmt: skip
    return replica_target(loads, current, state, RULES, lowest=lowest, highest=highest, now_s=now_s)


def test_too_little_slack_asks_for_one_more_at_once() -> None:
    assert target([ReplicaLoad(online_busy=0.3, slack=0.1)], 1)[0] == 2


def test_refusals_ask_for_one_more_at_once() -> None:
    assert target([ReplicaLoad(online_busy=0.3, shed=0.05)], 1)[0] == 2


def test_growth_is_as_large_as_the_load_says() -> None:
    assert target([ReplicaLoad(online_busy=0.9)] * 4, 4)[0] == 6


def test_shrinking_waits_and_goes_one_by_one() -> None:
    idle = [ReplicaLoad(online_busy=0.05)] * 4
    count, state = target(idle, 4, now_s=100.0)
    assert count == 4
    count, state = target(idle, 4, state=state, now_s=100.0 + RULES.down_after_s)
    assert count == 3
    assert target(idle[:3], 3, state=state, now_s=101.0 + RULES.down_after_s)[0] == 3


def test_a_busy_moment_starts_the_wait_anew() -> None:
    _, state = target([ReplicaLoad(online_busy=0.05)] * 2, 2, now_s=0.0)
    _, state = target([ReplicaLoad(online_busy=0.55)] * 2, 2, state=state, now_s=30.0)
    assert target([ReplicaLoad(online_busy=0.05)] * 2, 2, state=state, now_s=70.0)[0] == 2


def test_replicas_that_have_not_reported_change_nothing() -> None:
    assert target([], 3)[0] == 3


@given(LOADS, st.integers(0, 12), st.integers(0, 3), st.integers(3, 9), st.floats(0, 1e6))
def test_the_lease_is_never_exceeded_and_order_does_not_matter(
    loads: list[ReplicaLoad], current: int, lowest: int, highest: int, now_s: float
) -> None:
    asked = target(loads, current, lowest=lowest, highest=highest, now_s=now_s)
    assert lowest <= asked[0] <= highest
    assert asked == target(loads[::-1], current, lowest=lowest, highest=highest, now_s=now_s)
