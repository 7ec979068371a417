"""The replica's only queue: takes requests, says what each engine step does, learns how long steps take.

A state machine that is told the time. The live replica and the simulator in the tests drive the same object.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from serving.policy.admission import Admitted, RefusalReason, Refused, decide
from serving.policy.fairness import take_turns
from serving.policy.fill import Budget, Filled, add_batch, fill_online, split, step_budget
from serving.policy.order import density, order_online
from serving.policy.plan import Idle, PlannedWork, StepPlan
from serving.policy.reserve import Reservation, Reservations
from serving.policy.rows import Request, Row, Work, urgency
from serving.policy.rules import Rules
from serving.policy.share import BatchShare
from serving.policy.slots import assign_slots
from serving.policy.step_time import StepTimeModel
from serving.policy.table import RowTable
from serving.policy.tiers import PolicyConfig, Tier


class TierScheduler:
    """Order, slots, step budgets and admission of one replica. Not thread-safe: one thread owns it."""

    def __init__(self, config: PolicyConfig, *, num_slots: int, model: StepTimeModel) -> None:
        self.model = model
        self._config = config
        self._num_slots = num_slots
        self._rows = RowTable(num_slots)
        self._free_slots: tuple[int, ...] = tuple(range(num_slots))
        self._to_free: list[int] = []
        self._to_drop: list[str] = []
        self._share = BatchShare(config.batch_share)
        self._reserved = Reservations()
        self._busy_until_s = 0.0

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._rows

    def count(self, tier: Tier) -> tuple[int, int]:
        """Live rows of a tier: (holding a slot, waiting for one)."""
        return self._rows.count(tier)

    @property
    def num_promised(self) -> int:
        """Places that are kept for requests that were told to come again."""
        return len(self._reserved)

    def submit(self, request: Request, *, now_s: float) -> Admitted | Refused:
        """Take a request or say when to come again. Raises: ValueError for a live id, or a tier that is not offered."""
        if request.id in self._rows:
            raise ValueError(f"request {request.id} is here already")
        if request.tier not in self._config.targets:
            raise ValueError(f"the tier {request.tier} is not offered")
        replaced = self._replaced_by(request)
        others = [row for row in self._rows.considered() if row.request.id not in replaced]
        verdict = self._decide(request, others, now_s)
        if isinstance(verdict, Refused):
            return verdict
        for request_id in replaced:
            self.remove(request_id)
        self._rows.add(Row(request=request))
        return Admitted(predicted_finish_s=verdict.predicted_finish_s, superseded=replaced)

    def remove(self, request_id: str) -> bool:
        """Forget a request (cancelled, timed out, ended by a stop string); its slot is freed by the next plan."""
        row = self._rows.pop(request_id)
        if row is None:
            return False
        if row.slot is not None:
            self._to_free.append(row.slot)
        if row.parked:
            self._to_drop.append(request_id)
        return True

    def plan(self, *, now_s: float) -> StepPlan | Idle:
        """The next step. The caller carries it out and reports with `complete`."""
        freed, dropped = tuple(self._to_free), tuple(self._to_drop)
        self._to_free.clear()
        self._to_drop.clear()
        self._free_slots += freed
        if wake_at_s := self._collecting_until_s(now_s):
            return StepPlan(free=freed, drop=dropped) if freed or dropped else Idle(wake_at_s=wake_at_s)
        rows, rules = self._rows.considered(), self._rules
        online = order_online(rows, rules, now_s=now_s)
        batch = take_turns(sorted(split(rows, online), key=urgency))
        promoted = frozenset(row.request.id for row in online if row.request.tier is Tier.BATCH)
        owner = self._share.owner(batch, rules)
        moves, self._free_slots = assign_slots([*online, *batch], self._free_slots, promoted, owner)
        self._rows.mark_seated()
        budget = step_budget(online, rules, now_s=now_s)
        step = self._fill(online, batch, budget, rules)
        plan = StepPlan(
            free=freed,
            drop=dropped,
            park=moves.park,
            resume=moves.resume,
            work=tuple(_planned(work) for work in step.work),
            shape=step.shape,
            predicted_s=step.predicted_s,
            batch_s=step.batch_s,
            budget_s=budget.limit_s(Tier.BATCH) if step.work else math.inf,
        )
        self._busy_until_s = now_s + plan.predicted_s
        return Idle() if plan.is_empty else plan

    def complete(self, plan: StepPlan, *, elapsed_s: float) -> tuple[str, ...]:
        """Take over a step's outcome; returns the requests that have made their last token and are gone now.

        A request that was removed while the step ran is passed over.
        """
        finished = []
        for work in plan.work:
            row = self._rows.get(work.id)
            if row is None:
                continue
            row.prefilled += work.prefill_tokens
            row.generated += work.makes_token
            if row.is_done:
                self.remove(work.id)
                finished.append(work.id)
        if plan.work:
            self._learn(plan, elapsed_s)
        return tuple(finished)

    def _decide(self, request: Request, others: Sequence[Row], now_s: float) -> Admitted | Refused:
        if self._config.supersede:
            self._reserved.supersede(request)
        promised = self._reserved.claim(request, now_s=now_s)
        # A promise keeps room from those who come without one. Against who is running it is checked when it is kept:
        # the line only counts, and more may come of those who were told to than did before.
        coming = () if promised or request.tier is Tier.BATCH else self._expected(request, others, now_s)
        line_end_s = -math.inf if promised else self._reserved.line_end_s(request.tenant)
        verdict = decide(
            request,
            others,
            self._rules,
            num_waiting=0 if promised else self._rows.fair_waiting(request.tier, request.tenant),
            now_s=now_s,
            free_at_s=max(now_s, self._busy_until_s) + self._share.debt_s,
            coming=[each.row(now_s) for each in coming if each.request.retry_key != request.retry_key],
            line_end_s=line_end_s,
            margin_s=0.0 if promised else None,  # the promise was made with it: here it would be asked for twice
        )
        if isinstance(verdict, Admitted) or verdict.reason is RefusalReason.QUEUE_FULL:  # of that nothing is promised
            return verdict
        earliest_s = now_s + verdict.retry_after_s
        beside = self._beside(others, max(earliest_s, line_end_s))
        taken = density(beside, self._rules, now_s=now_s)
        at_s = self._reserved.promise_s(
            request, earliest_s=earliest_s, rules=self._rules, taken=taken, in_front=promised
        )
        return Refused(reason=verdict.reason, retry_after_s=max(0.0, at_s - now_s))

    @staticmethod
    def _beside(rows: Sequence[Row], from_s: float) -> list[Row]:
        """Rows that somebody waits for and that may still be here by then."""
        return [row for row in rows if row.request.tier.is_online and row.request.deadline_s > from_s]

    def _expected(self, request: Request, others: Sequence[Row], now_s: float) -> list[Reservation]:
        """Who was promised a place before the last of those that wait, the request among them, is due: a slow row that
        is there must be done beside all of them."""
        own_s = max(now_s, self._busy_until_s) + request.deadline_s - request.arrival_s
        due_s = (row.request.deadline_s for row in others if row.request.tier.is_online)
        return self._reserved.expected(now_s=now_s, until_s=max([own_s, *due_s]))

    @property
    def _rules(self) -> Rules:
        has_batch = self._rows.has(Tier.BATCH)
        return Rules(config=self._config, model=self.model, num_slots=self._num_slots, has_batch=has_batch)

    def _fill(self, online: Sequence[Row], batch: Sequence[Row], budget: Budget, rules: Rules) -> Filled:
        seated = [row for row in online if row.slot is not None]
        runnable = [row for row in batch if row.slot is not None]
        if online and runnable and self._share.buys_step(runnable[0], rules):
            return add_batch(Filled(skipped=True), runnable, rules, budget_s=0.0, owed_s=self._share.owed_s)
        filled = fill_online(seated, rules, budget)
        budget_s = budget.limit_s(Tier.BATCH)
        if len(seated) < len(online):  # a row that waits for a slot waits as much as one that does not fit
            budget_s = filled.predicted_s
        return add_batch(filled, runnable, rules, budget_s=budget_s, owed_s=self._share.owed_s)

    def _learn(self, plan: StepPlan, elapsed_s: float) -> None:
        self.model = self.model.observe(plan.shape, elapsed_s)
        had_s = plan.batch_s / plan.predicted_s * elapsed_s if plan.predicted_s else 0.0
        backlog = had_s > 0 or self._rows.has(Tier.BATCH)
        self._share.book(elapsed_s, had_s=had_s, backlog=backlog)

    def _replaced_by(self, request: Request) -> tuple[str, ...]:
        """Live keystroke requests of the same session: the newest keystroke wins."""
        if not self._config.supersede or request.session is None or request.tier is not Tier.KEYSTROKE:
            return ()
        live = (row.request for row in self._rows.considered())
        return tuple(sorted(old.id for old in live if old.tier is request.tier and old.session == request.session))

    def _collecting_until_s(self, now_s: float) -> float | None:
        """While only unstarted batch rows are here and there is room for more: when to start them anyway."""
        if not self._config.collect_s or not 0 < len(self._rows) < self._num_slots:
            return None
        rows = self._rows.considered()
        if any(row.request.tier.is_online or row.prefilled for row in rows):
            return None
        until_s = min(row.request.arrival_s for row in rows) + self._config.collect_s
        return until_s if until_s > now_s else None


def _planned(work: Work) -> PlannedWork:
    row = work.row
    assert row.slot is not None
    return PlannedWork(
        id=row.request.id,
        slot=row.slot,
        start=row.cached_tokens,
        prefill_tokens=work.prefill_tokens,
        makes_token=row.prefilled + work.prefill_tokens >= row.request.prompt_tokens,
    )
