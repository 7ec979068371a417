"""Decisions are replayed: recorded as text, read back, decided again, they come out the same."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cycle import decide
from orchestrator.policy.queueing.places import OpenHours
from orchestrator.policy.queueing.record import fingerprint, from_text, to_text
from orchestrator.policy.windows import Window
from tests.policy.queueing.build import apply, snapshot
from tests.policy.queueing.test_preemption import SCENARIOS
from tests.policy.queueing.worlds import clusters, contended

RECORDED = Path(__file__).with_name("decisions.jsonl")


@settings(max_examples=60, deadline=None)
@given(st.one_of(clusters(), contended()))
def test_a_recorded_decision_is_decided_again(snap):
    for _ in range(2):
        decisions = decide(snap)
        again = from_text(to_text(snap))
        assert again == snap
        assert from_text(to_text(decisions)) == decisions == decide(again)
        snap = apply(snap, decisions, drain=True)


def test_decisions_of_earlier_versions_are_still_taken():
    """A change of policy shows here first: look at what differs, then record anew with TIDE_RECORD=1."""
    if os.environ.get("TIDE_RECORD"):
        lines = [f"{to_text(snap)}\t{to_text(decide(snap))}\n" for snap, _ in SCENARIOS.values()]
        RECORDED.write_text("".join(lines), encoding="utf-8")
    for line in RECORDED.read_text(encoding="utf-8").splitlines():
        snap, decisions = (from_text(part) for part in line.split("\t"))
        assert decide(snap) == decisions


def test_windows_are_recorded_too():
    window = Window(name="w", opens=dt.time(22), closes=dt.time(6), timezone="Europe/Berlin", days=frozenset({0, 4}))
    snap = snapshot(windows=(OpenHours(window=window, pools=frozenset({"p", "q"})),))
    assert from_text(to_text(snap)) == snap


def test_a_fingerprint_tells_snapshots_apart():
    snap = snapshot(8)
    assert fingerprint(snap) == fingerprint(snapshot(8))
    assert fingerprint(snap) != fingerprint(dataclasses.replace(snap, now_s=1001.0))


@settings(max_examples=60, deadline=None)
@given(st.one_of(clusters(), contended()))
def test_a_fingerprint_that_remembers_the_last_snapshot_is_that_of_one_that_does_not(snap):
    known = {}
    for _ in range(4):
        assert fingerprint(snap, known) == fingerprint(snap)
        twice = dataclasses.replace(snap, leases=snap.leases * 2)
        assert fingerprint(twice, known) == fingerprint(twice)
        snap = apply(snap, decide(snap), drain=True)


@pytest.mark.parametrize("text", ["{", '{"": "os.system"}', '{"": "values.Job"}', '{"no": "tag"}'])
def test_what_is_no_recording_is_refused(text):
    with pytest.raises(ValueError, match=r"recorded|Expecting"):
        from_text(text)
