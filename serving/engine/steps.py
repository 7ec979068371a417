"""Carry out planned steps on an engine: tokens, texts and parked caches of the live requests. Engine thread only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from serving.engine.delivery import Mailbox
from serving.engine.generation import Answer, EngineFailedError, Finished, FinishReason, Generation
from serving.engine.live import Live
from serving.engine.load_meter import LoadMeter
from serving.engine.protocol import BROKEN, DecodeRow, PrefillChunk, TokenEngine
from serving.engine.rollout import Rollout
from serving.engine.text import AnswerText, Tokenizer
from serving.policy import PlannedWork, Refused, Request, StepPlan, TierScheduler


class StepRunner:
    """Admits requests to the scheduler and runs its plans."""

    def __init__(
        self, engine: TokenEngine, scheduler: TierScheduler, tokenizer: Tokenizer, clock: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._tokenizer = tokenizer
        self._clock = clock
        self.rollout = Rollout()
        self.meter = LoadMeter(clock())
        self._live: dict[str, Live] = {}
        self._parked: dict[str, Any] = {}
        self._mail = Mailbox()
        self._draining: EngineFailedError | None = None
        self._last_end_s: float | None = None
        self.num_steps = 0
        self.busy_s = 0.0
        self.wasted_tokens = 0
        self.budget_s = 0.0
        self.budget_used_s = 0.0

    def admit(self, answer: Answer, *, now_s: float) -> None:
        """Ask the scheduler; a refusal and the ends of superseded requests go out at once."""
        generation = answer.generation
        if self._draining and not generation.tier.is_online:
            self.fail(answer, self._draining)
            return
        verdict = self._scheduler.submit(_as_request(generation), now_s=now_s)
        if generation.tier.is_online:
            self.meter.asked(shed=isinstance(verdict, Refused), now_s=now_s)
        if isinstance(verdict, Refused):
            self._mail.add(answer, verdict)
        else:
            text = AnswerText(self._tokenizer.decoder(), generation.stop)
            self._live[generation.id] = Live(answer, text, self.rollout.choose(generation.id))
            for request_id in verdict.superseded:
                self._end(request_id, FinishReason.SUPERSEDED)
        self._mail.send()

    def cancel(self, request_id: str) -> None:
        """Forget a request whose client has left."""
        if live := self._live.pop(request_id, None):
            self._scheduler.remove(request_id)
            self.wasted_tokens += len(live.tokens)

    def pause(self) -> None:
        """Nothing is to be computed: the time to the next step is nobody's."""
        self._last_end_s = None

    def run(self, plan: StepPlan) -> None:
        """One step; tokens go out when all of it is done.

        It counts from the end of the one before: what was decided and handed out meanwhile is time that every row has
        waited, and so has to be in what the next steps are expected to take.
        """
        start_s = self._clock() if self._last_end_s is None else self._last_end_s
        self._move(plan)
        made = self._compute(self._read_hidden(plan.work))
        self._last_end_s = self._clock()
        elapsed_s = self._last_end_s - start_s
        finished = set(self._scheduler.complete(plan, elapsed_s=elapsed_s))
        for part in plan.work:
            if part.id in finished and (live := self._live[part.id]).generation.embed:
                if all(map(math.isfinite, live.hidden)):
                    self._end(part.id, FinishReason.STOP)
                else:
                    self._break(part.id)
        for request_id, token in made.items():
            self._hand_out(request_id, token, is_last=request_id in finished)
        self._mail.send()
        if plan.work:
            online_s = elapsed_s * (1 - plan.batch_s / plan.predicted_s) if plan.predicted_s else elapsed_s
            self.meter.stepped(online_s, now_s=self._clock())
            self.num_steps += 1
            self.busy_s += elapsed_s
            if math.isfinite(plan.budget_s):
                self.budget_s += plan.budget_s
                self.budget_used_s += elapsed_s

    def fail(self, answer: Answer, error: EngineFailedError) -> None:
        """End one request that never got in."""
        self._mail.add(answer, error)
        self._mail.send()

    def give_back_batch(self, error: EngineFailedError) -> None:
        """End every batch request, and from now on each new one, with an error that lets another replica take it."""
        self._draining = error
        for request_id in [each for each, live in self._live.items() if not live.generation.tier.is_online]:
            live = self._live.pop(request_id)
            self._scheduler.remove(request_id)
            self.wasted_tokens += len(live.tokens)
            self._mail.add(live.answer, error)
        self._mail.send()

    def fail_all(self, error: EngineFailedError) -> None:
        """End every live request with an error."""
        for live in self._live.values():
            self._mail.add(live.answer, error)
        self._live.clear()
        self._mail.send()

    def _move(self, plan: StepPlan) -> None:
        for slot in plan.free:
            self._engine.free(slot)
        for request_id in plan.drop:
            self._parked.pop(request_id, None)
        for request_id, slot, num_tokens in plan.park:
            self._parked[request_id] = self._engine.park(slot, num_tokens)
        for request_id, slot in plan.resume:
            self._engine.resume(slot, self._parked.pop(request_id))

    def _read_hidden(self, work: Sequence[PlannedWork]) -> list[PlannedWork]:
        """Carry out the parts that read a prompt for its hidden states; returns the others."""
        others = []
        for part in work:
            live = self._live[part.id]
            if live.generation.embed:
                chunk = live.generation.prompt[part.start : part.start + part.prefill_tokens]
                live.add_hidden(self._engine.embed(part.slot, chunk, start=part.start, version=live.version))
            else:
                others.append(part)
        return others

    def _compute(self, work: Sequence[PlannedWork]) -> dict[str, int]:
        """The token that each part of the work made, if it made one."""
        prefills = [part for part in work if part.prefill_tokens]
        decodes = [part for part in work if not part.prefill_tokens]
        if not work:
            return {}
        first, later = self._engine.step(
            [self._chunk(part) for part in prefills], [self._decode_row(part) for part in decodes]
        )
        made = {part.id: token for part, token in zip(prefills, first, strict=True) if token is not None}
        return made | {part.id: token for part, token in zip(decodes, later, strict=True)}

    def _chunk(self, part: PlannedWork) -> PrefillChunk:
        generation = self._live[part.id].generation
        return PrefillChunk(
            slot=part.slot,
            tokens=generation.prompt[part.start : part.start + part.prefill_tokens],
            start=part.start,
            sampling=generation.sampling if part.makes_token else None,
            version=self._live[part.id].version,
        )

    def _decode_row(self, part: PlannedWork) -> DecodeRow:
        live = self._live[part.id]
        return DecodeRow(slot=part.slot, token=live.tokens[-1], position=part.start, sampling=live.generation.sampling)

    def _hand_out(self, request_id: str, token: int, *, is_last: bool) -> None:
        live = self._live[request_id]
        if token == BROKEN:
            self._break(request_id)
            return
        live.tokens.append(token)
        live.unsent += live.text.push(token)
        live.num_unsent += 1
        if live.text.stopped:
            self._scheduler.remove(request_id)
        if live.text.stopped or is_last:
            self._end(request_id, FinishReason.STOP if live.text.stopped else FinishReason.LENGTH)
        elif not live.may_wait:
            self._mail.add(live.answer, live.take())

    def _end(self, request_id: str, reason: FinishReason) -> None:
        live = self._live.pop(request_id)
        now_s = self._clock()
        self.rollout.ended(live.version, failed=False, missed_slo=now_s > live.generation.deadline_s, now_s=now_s)
        if live.generation.tier.is_online and reason is not FinishReason.SUPERSEDED:
            allowed_s = live.generation.deadline_s - live.generation.arrival_s
            self.meter.finished((live.generation.deadline_s - now_s) / allowed_s, now_s=now_s)
        self.wasted_tokens += len(live.tokens) if reason is FinishReason.SUPERSEDED else 0
        live.unsent += "" if live.text.stopped else live.text.finish()
        if live.unsent:
            self._mail.add(live.answer, live.take())
        if live.text.stopped:
            reason = FinishReason.STOP
        size = len(live.generation.prompt)
        embedding = tuple(value / size for value in live.hidden) if live.generation.embed else None
        self._mail.add(live.answer, Finished(reason=reason, num_tokens=len(live.tokens), embedding=embedding))

    def _break(self, request_id: str) -> None:
        """End a request whose model computes no numbers; the other rows go on."""
        live = self._live.pop(request_id)
        self._scheduler.remove(request_id)
        self._mail.add(live.answer, EngineFailedError("the model gave no finite scores"))
        self.rollout.ended(live.version, failed=True, missed_slo=True, now_s=self._clock())


def _as_request(generation: Generation) -> Request:
    return Request(
        id=generation.id,
        tier=generation.tier,
        arrival_s=generation.arrival_s,
        deadline_s=generation.deadline_s,
        prompt_tokens=len(generation.prompt),
        max_tokens=generation.max_tokens,
        session=generation.session,
        tenant=generation.tenant,
        retry_key=generation.retry_key,
    )
