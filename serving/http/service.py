"""What the routes serve: one model's names, limits, replica and batches; how a body becomes a generation."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from serving.batch.store import BatchStore
from serving.config import BatchRules, TierLimits
from serving.engine.generation import Generation
from serving.engine.protocol import Sampling
from serving.engine.replica import Replica
from serving.http.callers import Caller
from serving.http.errors import ApiError
from serving.http.schemas import GenerationBody
from serving.policy import SERVICE_TIER_OF, SERVICE_TIERS, PolicyConfig, Tier

_DEFAULT_MAX_TOKENS = 16  # OpenAI's


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """`id` is the model's name; `ref` is `name@N`, the version that answers; `created_s` when it was registered."""

    id: str
    ref: str
    created_s: int

    def is_called(self, name: str) -> bool:
        """Whether a request for `name` means this model."""
        return name in (self.id, self.ref)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """Where files and batches are kept, and what a batch may be."""

    store: BatchStore
    rules: BatchRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Who asks for what tier; for a row of a batch, `expires_s` is when it is due, on the replica's clock."""

    caller: Caller
    service_tier: str | None = None
    session: str | None = None
    expires_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """What a route calls the text that is continued, and the longest answer."""

    prompt: str = "prompt"
    max_tokens: str = "max_tokens"


@dataclass(slots=True, kw_only=True)
class Service:
    """Everything a route may use. `model` changes when another version's weights take over; `batches` None = the
    endpoint keeps none."""

    model: ServedModel
    replica: Replica
    policy: PolicyConfig
    limits: Mapping[Tier, TierLimits]
    batches: Batches | None = None

    def check_model(self, name: str) -> None:
        """Raises: ApiError 404 for another model."""
        if not self.model.is_called(name):
            message = f"the model {name!r} does not exist here; {self.model.id!r} is served. Name that one"
            raise ApiError(404, message, code="model_not_found", param="model")

    def generation(
        self, body: GenerationBody, prompt: tuple[int, ...], ask: Ask, *, max_tokens: int | None, named: Fields
    ) -> Generation:  # fmt: skip
        """A text for the replica to make. Raises: ApiError that names the field which asks too much."""
        tier = self._tier(ask)
        allowed = max_tokens if max_tokens is not None else self._default_max_tokens(len(prompt))
        self._check_lengths(len(prompt), allowed, tier, named)
        stop, streamed = tuple(body.stop or ()), bool(body.stream)
        return self._generation(ask, tier, prompt, allowed, _sampling(body), stop, streamed=streamed)

    def embedding(self, prompt: tuple[int, ...], ask: Ask) -> Generation:
        """A vector for the replica to make. Raises: ApiError."""
        if not self.replica.embeds:
            raise ApiError(400, "this endpoint's engine makes no embeddings; ask for completions", code="unsupported")
        tier = self._tier(ask)
        if len(prompt) > self.replica.max_context:
            message = (
                f"this model's context is {self.replica.max_context} tokens; an input has {len(prompt)}. "
                "Cut it into pieces"
            )
            raise ApiError(400, message, code="context_length_exceeded", param="input")
        return self._generation(ask, tier, prompt, 1, Sampling(temperature=0.0), (), embed=True)

    def tier_name(self, ask: Ask) -> str:
        """The `service_tier` that answers. Raises: ApiError."""
        return SERVICE_TIER_OF[self._tier(ask)]

    def encode(self, text: str, param: str) -> tuple[int, ...]:
        """Text as tokens. Raises: ApiError for text that is empty or not Unicode."""
        try:
            tokens = tuple(self.replica.tokenizer.encode(text))
        except ValueError:
            message = f"{param}: the text holds a lone surrogate and is not valid Unicode"
            raise ApiError(400, message, code="invalid_value", param=param) from None
        return self.check_tokens(tokens, param)

    def check_tokens(self, tokens: tuple[int, ...], param: str) -> tuple[int, ...]:
        """The same tokens. Raises: ApiError when there is none, or one that the vocabulary does not have."""
        if not tokens:
            raise ApiError(400, f"{param}: there must be something to continue", code="invalid_value", param=param)
        if not all(0 <= token < self.replica.tokenizer.vocabulary for token in tokens):
            message = f"{param}: tokens must be 0..{self.replica.tokenizer.vocabulary - 1}"
            raise ApiError(400, message, code="invalid_value", param=param)
        return tokens

    def _generation(
        self, ask: Ask, tier: Tier, prompt: tuple[int, ...], max_tokens: int, sampling: Sampling, stop: tuple[str, ...],
        *, embed: bool = False, streamed: bool = False,
    ) -> Generation:  # fmt: skip
        arrival_s = self.replica.clock()
        due_s = self.policy.targets[tier].deadline_s(arrival_s, max_tokens)
        return Generation(
            id=uuid.uuid4().hex,
            tier=tier,
            prompt=prompt,
            max_tokens=max_tokens,
            sampling=sampling,
            stop=stop,
            session=ask.session,
            tenant=ask.caller.tenant,
            embed=embed,
            streamed=streamed,
            arrival_s=arrival_s,
            deadline_s=due_s if ask.expires_s is None else ask.expires_s,
        )

    def _tier(self, ask: Ask) -> Tier:
        """The tier that answers: `auto` (or nothing) is the default tier, or the fastest one offered without it."""
        asked = ask.service_tier
        if asked in (None, "auto"):
            offered = [tier for tier in self.limits if ask.caller.tiers is None or tier in ask.caller.tiers]
            tier = Tier.INTERACTIVE if Tier.INTERACTIVE in offered or not offered else offered[0]
        else:
            tier = SERVICE_TIERS[str(asked)]
        if tier not in self.limits:
            named = ", ".join(SERVICE_TIER_OF[each] for each in self.limits)
            message = f"service_tier: {asked!r} is not offered by this endpoint; {named} is"
            raise ApiError(400, message, code="invalid_value", param="service_tier")
        ask.caller.check_tier(tier)
        return tier

    def _default_max_tokens(self, prompt_tokens: int) -> int:
        return max(1, min(_DEFAULT_MAX_TOKENS, self.replica.max_context - prompt_tokens))

    def _check_lengths(self, prompt_tokens: int, max_tokens: int, tier: Tier, named: Fields) -> None:
        limit = self.limits[tier].max_tokens
        if max_tokens > limit:
            message = f"{named.max_tokens}: {max_tokens} is above {limit}, the most this tier answers. Ask for less"
            raise ApiError(400, message, code="invalid_value", param=named.max_tokens)
        context = self.replica.max_context
        if prompt_tokens + max_tokens > context:
            message = (
                f"this model's context is {context} tokens; you asked for {prompt_tokens + max_tokens} "
                f"({prompt_tokens} in the prompt, {max_tokens} for the answer). Shorten {named.prompt} or lower "
                f"{named.max_tokens}"
            )
            raise ApiError(400, message, code="context_length_exceeded", param=named.prompt)


def _sampling(body: GenerationBody) -> Sampling:
    """OpenAI's defaults: temperature 1, everything in the nucleus, another seed for every request."""
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=secrets.randbits(63) if body.seed is None else body.seed,
    )
