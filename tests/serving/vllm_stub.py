"""A STUB of the vLLM calls that our adapter makes, and nothing more: it shows that the adapter speaks its own side of
the interface as documented, not that vLLM does. It repeats the prompt, one token a step, best priority first."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

sampling_params = SimpleNamespace(RequestOutputKind=SimpleNamespace(DELTA="delta"))


@dataclass
class SamplingParams:
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: list[str]
    output_kind: str


@dataclass
class EngineArgs:
    model: str
    max_num_seqs: int
    max_model_len: int | None
    scheduling_policy: str
    dtype: str


class Tokenizer:
    def __len__(self) -> int:
        return 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


@dataclass
class LLMEngine:
    args: EngineArgs
    served: list[str] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    requests: dict[str, Any] = field(default_factory=dict)
    model_config: Any = field(default_factory=lambda: SimpleNamespace(max_model_len=128))
    before_step: Any = None
    finish_reason: str = "length"

    @classmethod
    def from_engine_args(cls, args: EngineArgs) -> LLMEngine:
        return cls(args)

    def get_tokenizer(self) -> Tokenizer:
        return Tokenizer()

    def add_request(
        self, request_id: str, prompt: dict[str, list[int]], params: SamplingParams, *, priority: int
    ) -> str:
        if len(prompt["prompt_token_ids"]) >= self.model_config.max_model_len:
            raise ValueError("The decoder prompt is longer than the maximum model length")
        self.requests[request_id] = (priority, prompt["prompt_token_ids"], params, [])
        return f"{request_id}-internal"

    def abort_request(self, ids: list[str], internal: bool = False) -> None:
        assert not internal, "ids are ours"
        self.aborted += ids
        for request_id in ids:
            del self.requests[request_id]

    def step(self) -> list[Any]:
        if self.before_step:
            self.before_step()
        best = sorted(self.requests, key=lambda request_id: self.requests[request_id][0])[: self.args.max_num_seqs]
        return [self._advance(request_id) for request_id in best]

    def _advance(self, request_id: str) -> Any:
        _, prompt, params, made = self.requests[request_id]
        token = prompt[len(made) % len(prompt)]
        made.append(token)
        self.served.append(request_id)
        finished = len(made) >= params.max_tokens
        if finished:
            del self.requests[request_id]
        completion = SimpleNamespace(
            token_ids=[token], text=chr(token), finish_reason=self.finish_reason if finished else None
        )
        return SimpleNamespace(request_id=request_id, outputs=[completion], finished=finished)
