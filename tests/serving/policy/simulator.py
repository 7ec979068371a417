"""A virtual replica: the real scheduler with a clock that jumps, and steps that last what a function says.

Owns physics (arrivals, step times, slots), never choices; checks that every plan can be carried out.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from serving.policy import Admitted, Idle, Refused, Request, StepPlan, StepShape, TierScheduler


@dataclass
class Outcome:
    """What happened: per request id."""

    finish_s: dict[str, float] = field(default_factory=dict)
    deadline_s: dict[str, float] = field(default_factory=dict)
    first_token_s: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    admitted: dict[str, Admitted] = field(default_factory=dict)
    refused: dict[str, Refused] = field(default_factory=dict)
    superseded: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    plans: list[StepPlan] = field(default_factory=list)
    batch_s: float = 0.0
    busy_s: float = 0.0
    idle_with_work_s: float = 0.0
    now_s: float = 0.0


class VirtualReplica:
    """Slots that complain: no token from a slot that another request owns, no resume of what was never parked."""

    def __init__(self, num_slots: int, requests: Iterable[Request]) -> None:
        self.owner: dict[int, str] = {}
        self.parked: set[str] = set()
        self.cached: dict[str, int] = {}
        self.prompt = {request.id: request.prompt_tokens for request in requests}
        self.num_slots = num_slots

    def carry_out(self, plan: StepPlan) -> None:
        for slot in plan.free:
            self.owner.pop(slot, None)
        for request_id in plan.drop:
            self.parked.remove(request_id)
        for request_id, slot, num_tokens in plan.park:
            assert self.owner.pop(slot) == request_id
            assert self.cached[request_id] == num_tokens
            self.parked.add(request_id)
        for request_id, slot in plan.resume:
            self.parked.remove(request_id)
            assert slot not in self.owner, "a slot is given twice"
            self.owner[slot] = request_id
        for work in plan.work:
            self._work(work.id, work.slot, work.start, work.prefill_tokens, work.makes_token)
        assert len({work.slot for work in plan.work}) == len(plan.work)

    def _work(self, request_id: str, slot: int, start: int, prefill_tokens: int, makes_token: bool) -> None:
        assert 0 <= slot < self.num_slots
        if start == 0 and prefill_tokens:
            self.owner[slot] = request_id
            self.cached[request_id] = 0
        assert self.owner[slot] == request_id, "the cache in the slot is another request's"
        assert self.cached[request_id] == start, "a token is skipped or computed twice"
        self.cached[request_id] += prefill_tokens or 1
        assert makes_token == (self.cached[request_id] >= self.prompt[request_id])


def simulate(
    scheduler: TierScheduler,
    requests: Iterable[Request],
    *,
    num_slots: int,
    step_s: Callable[[StepShape], float],
    cancels: Iterable[tuple[float, str]] = (),
    until_s: float = math.inf,
    comes_again: Callable[[Request], float | None] = lambda _: None,
    num_returns: int = 1,
) -> Outcome:
    """Run until every request is finished, refused, superseded or cancelled, or until `until_s`.

    `comes_again` says how long after the hinted time a refused request is sent once more, as `<id>+` (None = never);
    one that is refused again comes back as `<id>++`, up to `num_returns` times in all.
    """
    out, pending = Outcome(), sorted(requests, key=lambda request: (request.arrival_s, request.id))
    replica, leaving = VirtualReplica(num_slots, pending), sorted(cancels)
    while out.now_s < until_s:
        while pending and pending[0].arrival_s <= out.now_s:
            request = pending.pop(0)
            _submit(scheduler, request, out)
            is_back = request.id in out.refused and request.id.count("+") < num_returns
            delay_s = comes_again(request) if is_back else None
            if delay_s is not None:
                again = _again(request, out.now_s + out.refused[request.id].retry_after_s + delay_s)
                replica.prompt[again.id] = again.prompt_tokens
                bisect.insort(pending, again, key=lambda each: (each.arrival_s, each.id))
        while leaving and leaving[0][0] <= out.now_s:
            request_id = leaving.pop(0)[1]
            if scheduler.remove(request_id):
                out.cancelled.add(request_id)
        match scheduler.plan(now_s=out.now_s):
            case Idle(wake_at_s=wake_at_s):
                moments = [pending[0].arrival_s] if pending else []
                moments += [leaving[0][0]] if leaving else []
                moments += [wake_at_s] if wake_at_s is not None else []
                if not moments:
                    return out
                out.idle_with_work_s += (min(moments) - out.now_s) if wake_at_s is not None else 0.0
                out.now_s = max(out.now_s, min(moments))
            case plan:
                _step(scheduler, replica, plan, out, step_s)
    return out


def _again(request: Request, arrival_s: float) -> Request:
    deadline_s = arrival_s + request.deadline_s - request.arrival_s
    return dataclasses.replace(request, id=f"{request.id}+", arrival_s=arrival_s, deadline_s=deadline_s)


def _submit(scheduler: TierScheduler, request: Request, out: Outcome) -> None:
    match scheduler.submit(request, now_s=out.now_s):
        case Admitted() as verdict:
            out.admitted[request.id] = verdict
            out.deadline_s[request.id] = request.deadline_s
            out.superseded.update(verdict.superseded)
        case verdict:
            out.refused[request.id] = verdict


def _step(
    scheduler: TierScheduler,
    replica: VirtualReplica,
    plan: StepPlan,
    out: Outcome,
    step_s: Callable[[StepShape], float],
) -> None:
    replica.carry_out(plan)
    elapsed_s = step_s(plan.shape) if plan.work else 0.0
    out.now_s += elapsed_s
    out.plans.append(plan)
    out.busy_s += elapsed_s
    out.batch_s += plan.batch_s / plan.predicted_s * elapsed_s if plan.predicted_s else 0.0
    for work in plan.work:
        if work.makes_token:
            out.first_token_s.setdefault(work.id, out.now_s)
            out.tokens[work.id] = out.tokens.get(work.id, 0) + 1
    for request_id in scheduler.complete(plan, elapsed_s=elapsed_s):
        out.finish_s[request_id] = out.now_s
