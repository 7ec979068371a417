"""The engine thread of one replica: takes requests, asks the scheduler for each step, carries it out.

A thread beside the event loop, because a step blocks for milliseconds and requests must get in meanwhile. The inbox is
the only way in and `Answer`s the only way out, so nothing here needs a lock; the queue that matters is the scheduler's.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from serving.engine.generation import Answer, EngineFailedError, Generation
from serving.engine.protocol import TokenEngine
from serving.engine.rollout import Rollout
from serving.engine.steps import StepRunner
from serving.engine.text import Tokenizer
from serving.policy import Idle, StepPlan, StepShape, Tier, TierScheduler
from serving.policy.scaling import ReplicaLoad

_POLL_S = 0.05
# Deciding about those who come must not keep those who are in from their next step for longer, however many come.
_DECIDE_S = 0.005
_DRAINING = EngineFailedError("this replica is about to leave; another one takes the row")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Submit:
    answer: Answer


@dataclass(frozen=True, slots=True)
class _Wake:
    pass


@dataclass(frozen=True, slots=True)
class _Drain:
    pass


@dataclass(frozen=True, slots=True)
class _Call:
    work: Callable[[], None]
    done: threading.Event


@dataclass(frozen=True, slots=True)
class _Close:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStats:
    """What the engine has done and has to do, as of the last step.

    `rows` is tier -> (in a slot, waiting); `wasted_tokens` were made for clients that left or asked anew. Steps that
    had a time budget were allowed `budget_s` together and took `budget_used_s`.
    """

    steps: int
    busy_s: float
    wasted_tokens: int
    rows: dict[Tier, tuple[int, int]]
    budget_s: float = 0.0
    budget_used_s: float = 0.0


class Replica:
    """One engine with its scheduler and thread. `start` before use; `close` ends the thread and fails what is live."""

    def __init__(
        self,
        engine: TokenEngine,
        scheduler: TierScheduler,
        tokenizer: Tokenizer,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_context = engine.max_context
        self.num_slots = engine.num_slots
        self.embeds = True
        self.clock = clock
        self._scheduler = scheduler
        self._steps = StepRunner(engine, scheduler, tokenizer, clock)
        self._inbox: queue.SimpleQueue[_Submit | _Wake | _Drain | _Call | _Close] = queue.SimpleQueue()
        self._left: deque[str] = deque()
        self._thread = threading.Thread(target=self._run, name="token-engine", daemon=True)
        self._failure: str | None = None
        self._rows = dict.fromkeys(Tier, (0, 0))

    def start(self) -> None:
        """Start the engine thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread after the current step; live requests end with EngineFailedError."""
        self._inbox.put(_Close())
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    @property
    def failure(self) -> str | None:
        """Why the engine no longer computes; None while it does."""
        return self._failure

    def submit(self, generation: Generation) -> Answer:
        """Hand in a request from an event loop; its verdict is the answer's first event."""
        answer = Answer(generation, self._send_cancel)
        self._inbox.put(_Submit(answer))
        if self._failure is not None:  # nobody may read the inbox any more
            answer.deliver(EngineFailedError(self._failure))
        return answer

    @property
    def rollout(self) -> Rollout:
        """Which version answers; to be changed between steps only, by `between_steps`."""
        return self._steps.rollout

    def between_steps(self, work: Callable[[], None]) -> None:
        """Run something on the engine's thread before its next step, and wait for it; not from the event loop.

        Raises: RuntimeError when the engine computes no more. An exception of `work` is the engine's end.
        """
        done = threading.Event()
        self._inbox.put(_Call(work, done))
        while not done.wait(_POLL_S):
            if self._failure is not None:
                raise RuntimeError(self._failure)

    def stats(self) -> ReplicaStats:
        """A snapshot for metrics; may be a step old."""
        steps = self._steps
        return ReplicaStats(
            steps=steps.num_steps, busy_s=steps.busy_s, wasted_tokens=steps.wasted_tokens, rows=self._rows,
            budget_s=steps.budget_s, budget_used_s=steps.budget_used_s,
        )  # fmt: skip

    def batch_tokens_per_s(self) -> float:
        """What the engine could do with every slot decoding at half its context; 0 while nothing is measured."""
        slots = self.num_slots
        width = StepShape(slots, 0, slots * self.max_context // 2)
        step_s = self._scheduler.model.predict_s(width)
        return slots / step_s if step_s > 0 else 0.0

    def load(self) -> ReplicaLoad:
        """How busy the last seconds were with work that somebody waits for."""
        return self._steps.meter.load(now_s=self.clock())

    @property
    def num_asked(self) -> int:
        """Online requests since the start, refused ones included."""
        return self._steps.meter.num_asked

    def drain(self) -> None:
        """Give batch work back: rows end with EngineFailedError now and new ones are refused; online answers go on."""
        self._inbox.put(_Drain())

    def _send_cancel(self, request_id: str) -> None:
        self._left.append(request_id)
        self._inbox.put(_Wake())

    def _run(self) -> None:
        reason = "the replica is shutting down"
        try:
            timeout_s: float | None = 0.0
            while self._take_commands(timeout_s):
                self._let_go()
                timeout_s = self._advance()
        except Exception as error:  # whatever an engine throws, nobody may wait for ever
            reason = f"the engine failed: {type(error).__name__}: {error}"
            _log.exception("engine failed")
        self._failure = reason
        self._steps.fail_all(EngineFailedError(reason))
        self._refuse_inbox(reason)

    def _let_go(self) -> None:
        """Free the slots of clients that have left, however many others stand in the inbox before them."""
        while self._left:
            self._steps.cancel(self._left.popleft())

    def _advance(self) -> float | None:
        """One step; returns how long the next look at the inbox may wait for something to arrive (None = for ever)."""
        match self._scheduler.plan(now_s=self.clock()):
            case StepPlan() as plan:
                self._steps.run(plan)
                wait_s: float | None = 0.0
            case Idle(wake_at_s=wake_at_s):
                self._steps.pause()
                wait_s = None if wake_at_s is None else max(0.0, wake_at_s - self.clock())
        self._rows = {tier: self._scheduler.count(tier) for tier in Tier}
        return wait_s

    def _take_commands(self, timeout_s: float | None) -> bool:
        """What is in the inbox, or as much as a decision's time allows; waits for the first command at most
        `timeout_s`. False = close."""
        block, until_s = timeout_s != 0.0, math.inf
        while True:
            try:
                command = self._inbox.get(block, timeout_s)
            except queue.Empty:
                return True
            until_s = min(until_s, self.clock() + _DECIDE_S)
            match command:
                case _Submit(answer) if not answer.is_over:  # who has left before its turn came is owed no decision
                    self._steps.admit(answer, now_s=self.clock())
                case _Drain():
                    self._steps.give_back_batch(_DRAINING)
                case _Call(work, done):
                    work()
                    done.set()
                case _Close():
                    return False
                case _Submit() | _Wake():
                    pass
            if self.clock() > until_s:
                return True
            block = False

    def _refuse_inbox(self, reason: str) -> None:
        while True:
            try:
                command = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(command, _Submit):
                self._steps.fail(command.answer, EngineFailedError(reason))
