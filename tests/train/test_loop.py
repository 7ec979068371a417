"""The loop's order of calls and what it does in each case, with everything heavy replaced by fakes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, SupportsFloat

import pytest
import torch

from jobs.train import messages
from jobs.train.agree import Rhythm
from jobs.train.failures import NotFiniteError
from jobs.train.loop import Loop, Outcome
from jobs.train.not_finite import MAX_IN_A_ROW, NotFiniteHandler
from jobs.train.passes import PreparedPass
from jobs.train.rank_metrics import StepCost
from jobs.train.report import LedgerError, Reporter
from jobs.train.sample_ledger import SampleLedger
from jobs.train.samples import SampleStream

STREAM = SampleStream(100, "hash", 0, 4)
COST = StepCost(samples=4, tokens_per_sample=8, flops_per_sample=0.0, world_size=1, peak_flops_per_s=0.0)


class FakeModel:
    def __init__(self, log: list[str], refuse: Callable[[int], bool]) -> None:
        self.log = log
        self.refuse = refuse
        self.updates = 0

    def run_pass(self, batch: Any, weight: float, seed: int) -> torch.Tensor:
        self.log.append(f"pass {weight}")
        return torch.tensor(2.0, dtype=torch.float64) * weight

    def update(self, lr: float) -> bool:
        self.updates += 1
        self.log.append("update")
        return not self.refuse(self.updates)

    @property
    def grad_norm(self) -> float:
        return 1.5


class FakeSaver:
    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.saved: list[tuple[int, bool, dict[str, Any]]] = []

    def save(self, step: int, replicated: dict[str, Any], *, final: bool) -> None:
        self.log.append(f"save {step}")
        self.saved.append((step, final, replicated))

    def before_update(self) -> None:
        self.log.append("wait for copy")

    def finish(self) -> None:
        self.log.append("finish")


class FakeSum:
    """The sum of a group of one."""

    def __init__(self, vector: tuple[SupportsFloat, ...]) -> None:
        self.vector = vector

    def wait(self) -> list[float]:
        return [float(value) for value in self.vector]


class FakeWishes:
    """Wishes by step."""

    def __init__(self, stop_from: int, checkpoint_at: int) -> None:
        self.stop_from = stop_from
        self.checkpoint_at = checkpoint_at
        self.step = 0

    def take(self) -> tuple[bool, bool]:
        self.step += 1
        return self.step >= self.stop_from, self.step == self.checkpoint_at


class World:
    """One loop and everything it did."""

    def __init__(
        self,
        *,
        steps: int = 6,
        start_step: int = 0,
        snapshot_every_steps: int = 0,
        stop_from: int = 99,
        checkpoint_at: int = 99,
        refuse: Callable[[int], bool] = lambda update: False,
        on_nan: Any = "stop",
        lost_samples_at: int = 99,
        loss: float = 1.0,
    ) -> None:
        self.log: list[str] = []
        self.sent: list[messages.Message] = []
        self.saver = FakeSaver(self.log)
        self.model = FakeModel(self.log, refuse)
        self.rolled_back_to = 0
        self.reporter = Reporter(
            rank=0,
            stream=STREAM,
            cost=COST,
            ledger=SampleLedger(next_step=start_step),
            on_nan=on_nan,
            send=self.sent.append,
            clock=iter(float(n) for n in range(1000)).__next__,
        )
        self.loop = Loop(
            rhythm=Rhythm(steps=steps, snapshot_every_steps=snapshot_every_steps),
            start_step=start_step,
            learning_rate=lambda step_index: 0.1 * step_index,
            model=self.model,
            passes=_passes(start_step, steps, lost_samples_at, loss),
            saver=self.saver,
            reporter=self.reporter,
            not_finite=NotFiniteHandler(on_nan, passed_over=[], roll_back=self._roll_back, report=self.sent.append),
            wishes=FakeWishes(stop_from, checkpoint_at),
            begin_sum=FakeSum,
            send_phase=self.sent.append,
        )

    def _roll_back(self) -> int:
        self.log.append("roll back")
        return self.rolled_back_to

    def steps(self) -> list[int]:
        return [message.step for message in self.sent if isinstance(message, messages.Step)]

    def run(self) -> Outcome:
        return self.loop.run()


def _passes(start_step: int, steps: int, lost_samples_at: int, loss: float) -> Iterator[PreparedPass]:
    for step_index in range(start_step, steps):
        for last in (False, True):
            used = STREAM.step_hash(step_index) + (step_index + 1 == lost_samples_at) if last else 0
            yield PreparedPass(
                step_index=step_index,
                last_of_step=last,
                micro_batch=int(last),
                batch={},
                weight=loss / 4,
                seed=7,
                sample_hash=used,
            )


def test_a_run_reports_every_step_once_and_saves_at_its_end() -> None:
    world = World()
    assert world.run() == Outcome(step=6, finished=True)
    assert world.steps() == [1, 2, 3, 4, 5, 6]
    assert [(step, final) for step, final, _ in world.saver.saved] == [(6, True)]
    assert world.reporter.last_loss == pytest.approx(1.0)


def test_a_step_is_two_passes_then_the_copy_is_waited_for_then_the_update() -> None:
    world = World(steps=1)
    world.run()
    assert world.log == ["pass 0.25", "pass 0.25", "wait for copy", "update", "save 1"]


def test_a_run_that_starts_late_goes_on_from_there() -> None:
    world = World(start_step=4)
    assert world.run() == Outcome(step=6, finished=True)
    assert world.steps() == [5, 6]
    first = next(message for message in world.sent if isinstance(message, messages.Step))
    assert first.lr == pytest.approx(0.4)


def test_nothing_left_to_do_is_finished_at_once() -> None:
    assert World(start_step=6).run() == Outcome(step=6, finished=True)


def test_a_stop_is_obeyed_one_step_after_it_was_summed_and_saves() -> None:
    world = World(stop_from=2)
    assert world.run() == Outcome(step=3, finished=False)
    assert world.steps() == [1, 2, 3]
    assert [(step, final) for step, final, _ in world.saver.saved] == [(3, True)]


def test_snapshots_and_checkpoints_know_the_samples_of_their_own_step() -> None:
    world = World(snapshot_every_steps=4, checkpoint_at=1)
    world.run()
    saved = [
        (step, final, SampleLedger.from_json(known["ledger"]).next_step) for step, final, known in world.saver.saved
    ]
    assert saved == [(2, False, 2), (4, False, 4), (6, True, 6)]


def test_the_first_step_of_an_attempt_is_timed() -> None:
    world = World()
    world.run()
    assert [message for message in world.sent if isinstance(message, messages.Phase)] == [
        messages.Phase("first_step", 1.0)
    ]


def test_a_lost_sample_ends_the_run_before_it_is_saved() -> None:
    world = World(lost_samples_at=3, checkpoint_at=2)
    with pytest.raises(LedgerError, match="step 3"):
        world.run()
    assert world.saver.saved == []


def test_a_gradient_that_is_not_finite_stops_the_run() -> None:
    world = World(refuse=lambda update: update == 3)
    with pytest.raises(NotFiniteError, match="step 3"):
        world.run()
    assert world.model.updates == 3


def test_a_loss_that_is_not_finite_stops_the_run_a_step_later() -> None:
    with pytest.raises(NotFiniteError, match="loss of step 1"):
        World(loss=math.inf).run()


def test_skipping_goes_on_and_says_so() -> None:
    world = World(refuse=lambda update: update == 3, on_nan="skip")
    assert world.run().finished
    assert messages.Skipped(3) in world.sent
    assert world.steps() == [1, 2, 3, 4, 5, 6]


def test_skipping_for_ever_is_a_failure() -> None:
    world = World(refuse=lambda update: True, on_nan="skip", steps=100)
    with pytest.raises(NotFiniteError, match=f"{MAX_IN_A_ROW + 1} steps in a row"):
        world.run()


def test_rolling_back_waits_for_saves_and_is_kept_in_the_next_state() -> None:
    world = World(refuse=lambda update: update == 3, on_nan="rollback")
    world.rolled_back_to = 1
    assert world.run().finished
    assert world.log[world.log.index("finish") + 1] == "roll back"
    assert messages.RolledBack(3, 1) in world.sent
    [(_, _, replicated)] = world.saver.saved
    assert replicated["passed_over"] == [[1, 3]]
