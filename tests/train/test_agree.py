"""The agreement, over random speeds of ranks and random arrivals of wishes: nobody ever does anything alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.train.agree import VECTOR_LENGTH, Contribution, Decision, Rhythm, Total, decide


@dataclass
class VirtualRank:
    """A rank that may be anywhere between two waits; it goes through the same order of calls as the loop."""

    rhythm: Rhythm
    step: int = 0
    stop: bool = False
    checkpoint: bool = False
    in_flight: int | None = None
    heard: list[Total] = field(default_factory=list)
    reading: list[int] = field(default_factory=list)
    decisions: dict[int, Decision] = field(default_factory=dict)
    left: bool = False

    def end_step(self) -> Contribution:
        self.step += 1
        mine = Contribution(stop=self.stop, checkpoint=self.checkpoint, loss=0.5, hash_hi=1, hash_lo=2)
        self.checkpoint = False
        self.reading = [self.in_flight] if self.in_flight is not None else []
        self.in_flight = self.step
        return mine

    def decide(self) -> None:
        decision = decide(self.rhythm, self.step, self.heard)
        self.decisions[self.step] = decision
        self.heard = []
        if decision.saves:
            self.reading = [self.step]
            self.in_flight = None
        self.left = decision.leave


class VirtualGroup:
    """Sums that complete when the last rank has contributed, as an all-reduce does."""

    def __init__(self, world_size: int, rhythm: Rhythm) -> None:
        self.ranks = [VirtualRank(rhythm) for _ in range(world_size)]
        self.sums: dict[int, list[Contribution]] = {}
        self.deciding: set[int] = set()

    def can_advance(self, rank: int) -> bool:
        one = self.ranks[rank]
        return not one.left and all(len(self.sums[step]) == len(self.ranks) for step in one.reading)

    def advance(self, rank: int) -> None:
        """One uninterrupted stretch of a rank: to its next wait."""
        one = self.ranks[rank]
        one.heard += [self._total(step) for step in one.reading]
        one.reading = []
        if rank in self.deciding:
            self.deciding.discard(rank)
            one.decide()
        else:
            self.sums.setdefault(one.step + 1, []).append(one.end_step())
            self.deciding.add(rank)

    def _total(self, step: int) -> Total:
        vectors = [mine.to_vector() for mine in self.sums[step]]
        return Total.of(step, [sum(column) for column in zip(*vectors, strict=True)])


@given(
    world_size=st.integers(1, 6),
    steps=st.integers(1, 25),
    snapshot_every_steps=st.integers(0, 7),
    wishes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 5), st.booleans()), max_size=4),
    choices=st.lists(st.integers(0, 5), min_size=10, max_size=80),
)
def test_all_ranks_decide_alike_at_every_step(
    world_size: int,
    steps: int,
    snapshot_every_steps: int,
    wishes: list[tuple[int, int, bool]],
    choices: list[int],
) -> None:
    rhythm = Rhythm(steps=steps, snapshot_every_steps=snapshot_every_steps)
    group = VirtualGroup(world_size, rhythm)
    tick, first_stop_at = 0, None
    while not all(rank.left for rank in group.ranks):
        for at, rank, is_stop in wishes:
            if at == tick:
                one = group.ranks[rank % world_size]
                one.stop, one.checkpoint = one.stop or is_stop, one.checkpoint or not is_stop
                if is_stop and first_stop_at is None:
                    first_stop_at = one.step
        ready = [rank for rank in range(world_size) if group.can_advance(rank)]
        assert ready, "nobody can go on: the protocol deadlocks"
        group.advance(ready[choices[tick % len(choices)] % len(ready)])
        tick += 1
    histories = [rank.decisions for rank in group.ranks]
    assert all(history == histories[0] for history in histories)
    last_step = max(histories[0])
    if first_stop_at is not None and first_stop_at < last_step:
        assert last_step <= min(steps, first_stop_at + 3), "the stop was asked for during the next step at the latest"
    if not any(decision.stop for decision in histories[0].values()):
        assert last_step == steps


def test_a_stop_is_heard_one_step_after_it_was_said() -> None:
    rhythm = Rhythm(steps=100, snapshot_every_steps=0)
    said = Total(step=4, stop=True, checkpoint=False, loss=0.0, hash_hi=0, hash_lo=0)
    assert decide(rhythm, 5, [said]) == Decision(finished=False, stop=True, snapshot=True, checkpoint=False)


def test_the_last_step_finishes_even_if_a_stop_arrives_with_it() -> None:
    said = Total(step=9, stop=True, checkpoint=False, loss=0.0, hash_hi=0, hash_lo=0)
    decision = decide(Rhythm(steps=10, snapshot_every_steps=0), 10, [said])
    assert (decision.finished, decision.stop, decision.leave, decision.snapshot) == (True, False, True, True)


@pytest.mark.parametrize(("step", "due"), [(1, False), (4, True), (6, False), (8, True)])
def test_snapshots_come_every_so_many_steps(step: int, due: bool) -> None:
    assert decide(Rhythm(steps=100, snapshot_every_steps=4), step, []).snapshot is due


def test_a_decision_never_depends_on_the_total_of_its_own_step() -> None:
    own = Total(step=5, stop=True, checkpoint=False, loss=0.0, hash_hi=0, hash_lo=0)
    with pytest.raises(AssertionError):
        decide(Rhythm(steps=10, snapshot_every_steps=0), 5, [own])


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 2**32 - 1)), min_size=1, max_size=50))
def test_sums_of_hash_halves_are_exact(said: list[tuple[bool, bool, int]]) -> None:
    vectors = [
        Contribution(stop=stop, checkpoint=checkpoint, loss=0.0, hash_hi=half, hash_lo=half).to_vector()
        for stop, checkpoint, half in said
    ]
    assert all(len(vector) == VECTOR_LENGTH for vector in vectors)
    total = Total.of(1, [sum(column) for column in zip(*vectors, strict=True)])
    assert total.hash_hi == total.hash_lo == sum(half for _, _, half in said)
    assert total.stop == any(stop for stop, _, _ in said)
    assert total.checkpoint == any(checkpoint for _, checkpoint, _ in said)
