"""vLLM in the place of our engine thread: an optional extra, imported when an endpoint asks for it.

vLLM schedules its own steps, so tiers reach it as request priorities, earliest deadline first, and admission goes by
the token rate that it shows. Supersede, cancellation, drain and the answers' events are those of `Replica`.
Written against the `LLMEngine` of vLLM's V1 engine as documented from 0.11 to 0.32. Not run against a real vLLM here,
which needs a GPU: the tests use a stub of the few calls made below.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from orchestrator.spec.errors import ExitCode, UserError
from serving.engine.delivery import Mailbox
from serving.engine.generation import Answer, Delta, EngineFailedError, Finished, FinishReason, Generation
from serving.engine.load_meter import LoadMeter
from serving.engine.replica import ReplicaStats
from serving.engine.rollout import Rollout
from serving.engine.text import HubTokenizer
from serving.engine.vllm_queue import LiveRequest, LiveRequests, priority
from serving.policy import PolicyConfig, Tier
from serving.policy.scaling import ReplicaLoad

_log = structlog.get_logger(__name__)
# Others ("abort", "error", whatever comes to be) are no answer.
_REASONS = {"stop": FinishReason.STOP, "repetition": FinishReason.STOP, "length": FinishReason.LENGTH}
_DRAINING = EngineFailedError("this replica is about to leave; another one takes the row")


@dataclass(frozen=True, slots=True)
class _Cancel:
    request_id: str


class VllmReplica:
    """A vLLM engine and the thread that steps it; the methods are those of `Replica`."""

    def __init__(
        self,
        vllm: Any,
        engine: Any,
        config: PolicyConfig,
        max_context: int,
        num_slots: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tokenizer = HubTokenizer(engine.get_tokenizer())
        self.max_context = max_context
        self.num_slots = num_slots
        self.embeds = False  # a text engine of vLLM makes none
        self.clock = clock
        self.failure: str | None = None
        self.rollout = Rollout()  # one version: another one means another engine
        self._vllm = vllm
        self._engine = engine
        self._live = LiveRequests(config)
        self._inbox: queue.SimpleQueue[Answer | _Cancel | Callable[[], bool]] = queue.SimpleQueue()
        self._mail = Mailbox()
        self._meter = LoadMeter(clock())
        self._thread = threading.Thread(target=self._run, name="vllm-engine", daemon=True)
        self._draining = False
        self._steps, self._busy_s, self._wasted_tokens = 0, 0.0, 0

    def start(self) -> None:
        """Start the engine thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread after the current step; live requests end with EngineFailedError."""
        self._inbox.put(lambda: False)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def submit(self, generation: Generation) -> Answer:
        """Hand in a request from an event loop; its verdict is the answer's first event."""
        answer = Answer(generation, lambda request_id: self._inbox.put(_Cancel(request_id)))
        self._inbox.put(answer)
        if self.failure is not None:
            answer.deliver(EngineFailedError(self.failure))
        return answer

    def drain(self) -> None:
        """Give batch work back; online answers go on."""
        self._inbox.put(self._give_back_batch)

    def batch_tokens_per_s(self) -> float:
        """The rate seen lately; 0 while nothing is measured."""
        return self._live.tokens_per_s

    def load(self) -> ReplicaLoad:
        """How busy the last seconds were with work that somebody waits for."""
        return self._meter.load(now_s=self.clock())

    @property
    def num_asked(self) -> int:
        """Online requests since the start, refused ones included."""
        return self._meter.num_asked

    def stats(self) -> ReplicaStats:
        """A snapshot for metrics; vLLM does not say which requests hold a slot, so all count as computing."""
        live = list(self._live.by_id.values())
        rows = {tier: (sum(each.generation.tier is tier for each in live), 0) for tier in Tier}
        return ReplicaStats(steps=self._steps, busy_s=self._busy_s, wasted_tokens=self._wasted_tokens, rows=rows)

    def _run(self) -> None:
        reason = "the replica is shutting down"
        try:
            while self._take_commands():
                if self._live.by_id:
                    self._step()
        except Exception as error:  # whatever vLLM throws, nobody may wait for ever
            reason = f"the engine failed: {type(error).__name__}: {error}"
            _log.exception("engine failed")
        self.failure = reason
        for live in self._live.by_id.values():
            self._mail.add(live.answer, EngineFailedError(reason))
        self._live.by_id.clear()
        while not self._inbox.empty():
            if isinstance(command := self._inbox.get(), Answer):
                self._mail.add(command, EngineFailedError(reason))
        self._mail.send()

    def _take_commands(self) -> bool:
        while not self._inbox.empty() or not self._live.by_id:
            match self._inbox.get():
                case Answer() as answer:
                    self._admit(answer)
                case _Cancel(request_id):
                    if live := self._live.by_id.get(request_id):
                        self._forget(live)
                case work:
                    if not work():
                        return False
            self._mail.send()
        return True

    def _admit(self, answer: Answer) -> None:
        generation, now_s = answer.generation, self.clock()
        if self._draining and not generation.tier.is_online:
            self._mail.add(answer, _DRAINING)
            return
        replaced = self._live.replaced_by(generation)
        refusal = self._live.refusal(generation, {live.generation.id for live in replaced}, now_s)
        if generation.tier.is_online:
            self._meter.asked(shed=refusal is not None, now_s=now_s)
        if refusal:
            self._mail.add(answer, refusal)
            return
        for old in replaced:
            self._mail.add(old.answer, Finished(reason=FinishReason.SUPERSEDED, num_tokens=old.num_tokens))
            self._forget(old)
        try:
            self._engine.add_request(
                generation.id, {"prompt_token_ids": list(generation.prompt)}, self._sampling(generation),
                priority=priority(generation),
            )  # fmt: skip
        except (ValueError, TypeError) as error:  # vLLM checks more than we do; the others go on
            self._mail.add(answer, EngineFailedError(f"vLLM does not take this request: {error}"))
            return
        self._live.by_id[generation.id] = LiveRequest(answer)

    def _step(self) -> None:
        start_s, made = self.clock(), 0
        for output in self._engine.step():
            live = self._live.by_id.get(output.request_id)
            if live is not None:
                made += self._deliver(live, output)
        now_s = self.clock()
        elapsed_s = now_s - start_s
        online = sum(live.generation.tier.is_online for live in self._live.by_id.values())
        self._meter.stepped(elapsed_s * online / max(1, len(self._live.by_id)), now_s=now_s)
        self._live.made(made, elapsed_s)
        self._steps, self._busy_s = self._steps + 1, self._busy_s + elapsed_s
        self._mail.send()

    def _deliver(self, live: LiveRequest, output: Any) -> int:
        """Hand out what is new of an answer; returns how many tokens that is."""
        (completion,) = output.outputs
        made = len(completion.token_ids)
        live.num_tokens += made
        if completion.text or made:
            self._mail.add(live.answer, Delta(text=completion.text, num_tokens=made))
        if output.finished:
            del self._live.by_id[live.generation.id]
            self._finish(live, completion.finish_reason)
        return made

    def _finish(self, live: LiveRequest, said: str | None) -> None:
        generation, now_s, reason = live.generation, self.clock(), _REASONS.get(said or "")
        late = now_s > generation.deadline_s
        self.rollout.ended("", failed=reason is None, missed_slo=late or reason is None, now_s=now_s)
        if reason is None:
            self._mail.add(live.answer, EngineFailedError(f"vLLM ended this request: {said}"))
            return
        self._mail.add(live.answer, Finished(reason=reason, num_tokens=live.num_tokens))
        if generation.tier.is_online:
            allowed_s = generation.deadline_s - generation.arrival_s
            self._meter.finished((generation.deadline_s - now_s) / allowed_s, now_s=now_s)

    def _forget(self, live: LiveRequest) -> None:
        del self._live.by_id[live.generation.id]
        self._wasted_tokens += live.num_tokens
        self._engine.abort_request([live.generation.id])

    def _give_back_batch(self) -> bool:
        self._draining = True
        for live in [each for each in self._live.by_id.values() if not each.generation.tier.is_online]:
            self._mail.add(live.answer, _DRAINING)
            self._forget(live)
        return True

    def _sampling(self, generation: Generation) -> Any:
        how = generation.sampling
        return self._vllm.SamplingParams(
            temperature=how.temperature, top_p=how.top_p, seed=how.seed, max_tokens=generation.max_tokens,
            stop=list(generation.stop), output_kind=self._vllm.sampling_params.RequestOutputKind.DELTA,
        )  # fmt: skip


def load_vllm(
    folder: Path, config: PolicyConfig, *, slots: int, max_context: int | None, precision: str
) -> VllmReplica:
    """A replica around vLLM for a model folder in Hugging Face's form. Raises: UserError without the extra."""
    try:
        import vllm
    except ImportError as error:
        raise UserError("engine.name vllm needs the package vllm, which is not installed", code=ExitCode.NEVER,
                        next_step="Run 'pip install tideline[vllm]' on a machine with a GPU.") from error  # fmt: skip
    arguments = vllm.EngineArgs(
        model=str(folder), max_num_seqs=slots, max_model_len=max_context, scheduling_policy="priority",
        dtype={"fp32": "float32", "bf16": "bfloat16"}[precision],
    )  # fmt: skip
    engine = vllm.LLMEngine.from_engine_args(arguments)
    return VllmReplica(vllm, engine, config, engine.model_config.max_model_len, slots)
