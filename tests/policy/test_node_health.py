"""When nodes are held back and let go: by deaths within a time, by probes, and never for what is not their fault."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policy.node_health import (
    Death,
    HealthRules,
    HoldCause,
    NodeHold,
    Probed,
    Release,
    Seen,
    judge_nodes,
)

NOW = 10_000.0
RULES = HealthRules(failed_probes=3, worker_deaths=3, within_s=600.0, hold_s=1800.0)
OK, BAD, NEVER = Probed(has_answered=True), Probed(failed=3, has_answered=True), Probed(failed=50)


def died(*ages_s: float, node: str = "n", job: str = "a") -> list[Death]:
    return [Death(node=node, job=job, at_s=NOW - age_s) for age_s in ages_s]


def held(until_s: float | None, node: str = "n") -> dict[str, NodeHold]:
    return {node: NodeHold(node=node, cause=HoldCause.DEATHS, since_s=NOW - 1800, until_s=until_s)}


def judge(**what: object) -> list[tuple[str, str]]:
    """(node, "deaths" | "probes" | "release") of everything that changes."""
    given_ = {"nodes": ("n", "m"), "deaths": (), "probes": {}, "holds": {}, "released_s": {}} | what
    found = judge_nodes(Seen(**given_), RULES, now_s=NOW)  # type: ignore[arg-type]
    return [(one.node, "release" if isinstance(one, Release) else one.cause.value) for one in found]


DEATHS, PROBES, RELEASE = [("n", "worker_deaths")], [("n", "failed_probes")], [("n", "release")]


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ({"deaths": died(1, 300, 599)}, DEATHS),
        ({"deaths": died(1, 300, 601)}, []),
        ({"deaths": died(1, 2)}, []),
        ({"deaths": [*died(1, job="a"), *died(2, job="b"), *died(3, job="c")]}, DEATHS),
        ({"deaths": [*died(1, 2, 3, 4), *died(5, 6, 7, node="m")]}, []),
        ({"deaths": [*died(1, 2, 3, 4), *died(5, node="m"), *died(6, 7, job="b")]}, DEATHS),
        ({"deaths": died(1, 2, 3), "released_s": {"n": NOW - 2.5}}, []),
        ({"deaths": died(1, 2, 3), "holds": held(NOW + 5)}, []),
        ({"probes": {"n": BAD, "m": OK}}, PROBES),
        ({"probes": {"n": Probed(failed=2, has_answered=True), "m": OK}}, []),
        ({"probes": {"n": NEVER, "m": OK}}, []),
        ({"probes": {"n": BAD, "m": BAD}}, []),
        ({"nodes": ("n",), "probes": {"n": BAD}}, PROBES),
        ({"holds": held(NOW)}, RELEASE),
        ({"holds": held(NOW), "probes": {"n": OK, "m": OK}}, RELEASE),
        ({"holds": held(NOW), "probes": {"n": BAD, "m": OK}}, []),
        ({"holds": held(NOW), "probes": {"n": NEVER, "m": OK}}, RELEASE),
        ({"holds": held(None)}, []),
        ({"nodes": ("m",), "holds": held(NOW)}, RELEASE),
        ({"nodes": ("m",), "holds": held(NOW + 1)}, []),
    ],
    ids=[
        "three-within-the-time", "one-too-long-ago", "two-only", "of-several-jobs", "a-job-that-dies-everywhere",
        "a-job-that-dies-everywhere-and-another", "before-it-was-let-go", "held-already", "probes", "two-probes-only",
        "never-reached-from-here", "the-way-fails", "a-single-node", "time-over", "time-over-and-answers",
        "time-over-and-silent", "time-over-and-never-reached", "by-a-person", "gone", "gone-and-not-over",
    ],
)  # fmt: skip
def test_what_changes_when(what: dict[str, object], changes: list[tuple[str, str]]) -> None:
    assert judge(**what) == changes


def test_a_hold_says_until_when_and_why() -> None:
    seen = Seen(nodes=("n",), deaths=died(1, 2, 3), probes={}, holds={}, released_s={})
    (hold,) = judge_nodes(seen, RULES, now_s=NOW)
    assert isinstance(hold, NodeHold)
    assert (hold.since_s, hold.until_s) == (NOW, NOW + 1800)
    assert hold.detail == "3 workers died on it within 600 s (a)"


deaths = st.builds(Death, node=st.sampled_from("nmo"), job=st.sampled_from("abc"), at_s=st.floats(NOW - 900, NOW))


@given(st.lists(deaths, max_size=20), st.randoms())
def test_the_order_of_deaths_changes_nothing(found: list[Death], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(found)
    random.shuffle(shuffled)
    assert judge(deaths=found) == judge(deaths=shuffled)


@given(st.lists(deaths, max_size=20))
def test_what_was_done_is_not_done_again(found: list[Death]) -> None:
    first = judge(deaths=found, nodes="nmo")
    holds = {node: held(NOW + 1800, node)[node] for node, _ in first}
    assert judge(deaths=found, nodes="nmo", holds=holds) == []
