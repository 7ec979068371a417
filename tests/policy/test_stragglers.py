"""Stragglers: named after several rounds in a row, let go after as many, whatever the order of the measurements."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policy.stragglers import Named, Pace, StragglerRules, StragglerState, name_stragglers

RULES = StragglerRules(slow=1.5, fair=1.2, rounds=3)


def paces(*seconds: float) -> list[Pace]:
    return [Pace(rank=rank, node=f"n{rank // 2}", pass_s=one) for rank, one in enumerate(seconds)]


def live(*rounds: tuple[float, ...]) -> list[tuple[int, int, bool]]:
    """(round, rank, over) of everything that is named."""
    state, found = StragglerState(), []
    for number, one in enumerate(rounds):
        named, state = name_stragglers(paces(*one), state, RULES)
        found += [(number, name.rank, name.over) for name in named]
    return found


SLOW, FAST, BETWEEN = (1.0, 1.0, 1.8, 1.0), (1.0, 1.0, 1.1, 1.0), (1.0, 1.0, 1.3, 1.0)


@pytest.mark.parametrize(
    ("rounds", "named"),
    [
        ((SLOW,) * 3, [(2, 2, False)]),
        ((SLOW,) * 9, [(2, 2, False)]),
        ((SLOW, SLOW, FAST, SLOW, SLOW), []),
        ((BETWEEN,) * 9, []),
        ((*(SLOW,) * 3, *(BETWEEN,) * 9), [(2, 2, False)]),
        ((*(SLOW,) * 3, *(FAST,) * 3), [(2, 2, False), (5, 2, True)]),
        ((*(SLOW,) * 3, FAST, FAST, BETWEEN, FAST, FAST), [(2, 2, False)]),
        (((1.0, 3.0),) * 3, [(2, 1, False)]),
        (((1.0,),) * 5, []),
        (((0.0, 0.0),) * 5, []),
    ],
    ids=[
        "slow-three-times", "said-once", "a-fast-round-between", "a-little-slow", "nothing-changes-between",
        "over-after-as-many", "not-over-in-a-row", "of-two-the-slower", "alone", "not-measured",
    ],
)  # fmt: skip
def test_who_is_named_when(rounds: tuple[tuple[float, ...], ...], named: list[tuple[int, int, bool]]) -> None:
    assert live(*rounds) == named


def test_a_name_says_where_and_how_slow() -> None:
    state = StragglerState(streaks={5: 2})
    (named,), _ = name_stragglers(paces(1.0, 1.1, 0.9, 1.0, 1.0, 1.8), state, RULES)
    assert named == Named(rank=5, node="n2", ratio=pytest.approx(1.8), over=False)


@given(st.lists(st.floats(0.01, 10.0), min_size=2, max_size=30), st.randoms())
def test_the_order_of_measurements_changes_nothing(seconds: list[float], random) -> None:  # type: ignore[no-untyped-def]
    given_paces, state = paces(*seconds), StragglerState()
    shuffled = list(given_paces)
    random.shuffle(shuffled)
    assert name_stragglers(given_paces, state, RULES) == name_stragglers(shuffled, state, RULES)


@given(st.lists(st.floats(1.0, 1.49), min_size=2, max_size=30))
def test_nobody_is_named_while_all_are_nearly_alike(seconds: list[float]) -> None:
    assert live(*[tuple(seconds)] * 6) == []
