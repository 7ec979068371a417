"""Quotas of cohorts: whole devices, never more lent than there are, guaranteed ones always there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policy.queueing.parties import Queue, Quota
from orchestrator.policy.queueing.quota import Quotas


def quotas(**queues):
    """Queues of one cohort in one pool: name=(nominal, borrow, lend)."""
    return Quotas.of(
        Queue(name=name, cohort="all", quotas=(Quota(pool="p", nominal=nominal, borrow=borrow, lend=lend),))
        for name, (nominal, borrow, lend) in queues.items()
    )


def available(books, name):
    return books.accounts[name, "p"].available


@pytest.mark.parametrize(
    ("queues", "used", "expected"),
    [
        ({"x": (10, None, None), "y": (10, None, None)}, {}, {"x": 20, "y": 20}),
        ({"x": (10, 5, None), "y": (10, None, None)}, {}, {"x": 15, "y": 20}),
        ({"x": (10, None, None), "y": (10, None, 4)}, {}, {"x": 14, "y": 20}),
        ({"x": (10, None, None), "y": (10, None, 4)}, {"x": 14}, {"x": 0, "y": 6}),
        ({"x": (10, None, 0), "y": (0, None, None)}, {}, {"x": 10, "y": 0}),
        ({"x": (10, None, None), "y": (10, None, None)}, {"x": 16}, {"x": 4, "y": 4}),
        ({"x": (10, 2, 0), "y": (10, None, None)}, {"x": 10}, {"x": 2, "y": 10}),
    ],
)
def test_what_may_be_taken(queues, used, expected):
    books = quotas(**queues)
    for name, devices in used.items():
        books.charge(name, "p", devices)
    assert {name: available(books, name) for name in queues} == expected


def test_without_a_cohort_there_is_only_nominal():
    books = Quotas.of([Queue(name="x", quotas=(Quota(pool="p", nominal=3, borrow=9),))])
    assert available(books, "x") == 3


def test_nobodys_devices_are_charged_to_nobody():
    books = quotas(x=(4, None, None))
    books.charge(None, "p", 3)
    books.charge("gone", "p", 3)
    assert available(books, "x") == 4


LIMIT = st.one_of(st.none(), st.integers(0, 6))


@given(
    rows=st.lists(st.tuples(st.integers(0, 8), LIMIT, LIMIT), min_size=1, max_size=4),
    takes=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 8)), max_size=12),
)
def test_a_cohort_never_uses_more_than_it_has_and_guarantees_hold(rows, takes):
    names = [f"q{at}" for at in range(len(rows))]
    limits = ((nominal, borrow, None if lend is None else min(lend, nominal)) for nominal, borrow, lend in rows)
    books = quotas(**dict(zip(names, limits, strict=True)))
    for at, devices in takes:
        name = names[at % len(names)]
        if devices <= available(books, name):
            books.charge(name, "p", devices)
    accounts = books.accounts.values()
    assert sum(one.used for one in accounts) <= sum(one.nominal for one in accounts)
    for one in accounts:
        assert one.borrow is None or one.borrowed <= one.borrow
        assert one.used + one.available >= one.guaranteed


@given(first=st.integers(0, 20), more=st.integers(0, 20))
def test_giving_back_undoes_taking(first, more):
    books = quotas(x=(5, None, 2), y=(5, None, None))
    books.charge("x", "p", first)
    before = {name: available(books, name) for name in "xy"}
    books.charge("x", "p", more)
    books.charge("x", "p", -more)
    assert {name: available(books, name) for name in "xy"} == before
