"""The kind Endpoint: a registered model behind latency tiers on an OpenAI-compatible address."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.base import Document, SpecModel, min_above_max, repeated, without_effect
from orchestrator.spec.endpoint_tiers import Tiers
from orchestrator.spec.fields import (
    Count,
    Duration,
    FilePath,
    Fraction,
    Many,
    Name,
    OneOf,
    Positive,
    PositiveDuration,
    Reference,
    Size,
    Text,
    real,
    whole,
)
from orchestrator.spec.job_parts import Gate, Resources
from orchestrator.spec.names import split_reference
from orchestrator.spec.notify import Hook, hook_findings
from orchestrator.spec.problems import Code, Finding

TierName = Annotated[Literal["keystroke", "interactive", "batch"], OneOf()]
ReplicaCount = Annotated[int, whole(0, 10_000)]


class Tls(SpecModel):
    """Files of the certificate; the address then speaks HTTPS alone."""

    cert: FilePath
    """Certificate chain, PEM."""
    key: FilePath
    """Private key, PEM."""


class Listen(SpecModel):
    """Where requests come in."""

    host: Text = "127.0.0.1"
    """The address; beyond loopback a keys file is needed."""
    port: Annotated[int, whole(0, 65_535)] = 8000
    """The port; 0 = any free one, printed at the start."""
    tls: Tls | None = None
    """Certificate; none = plain HTTP."""
    max_body: Size = 2**20
    """Largest request body that is read; files of batches are read in pieces and do not count."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class Replicas(SpecModel):
    """How many copies of the model answer."""

    min: ReplicaCount = 1
    """Never fewer, also when nothing is asked; 0 = the first request waits for a cold start."""
    max: Annotated[int, whole(1, 10_000)] = 1
    """Never more."""
    resources: Resources = Field(default_factory=Resources)
    """What one replica holds."""
    drain: PositiveDuration = 30.0
    """How long batch requests of a replica that leaves go on; online ones have their tier's timeout."""
    rps: Positive | None = None
    """Requests a second that one replica serves within its promises, as measured; none = its devices are not lent."""

    def cross_check(self) -> Iterator[Finding]:
        yield from min_above_max(self.min, self.max)


class Engine(SpecModel):
    """How one replica computes."""

    name: Annotated[Literal["torch", "echo", "vllm"], OneOf()] = "torch"
    """torch = ours; echo = repeats the prompt, for tests; vllm = an optional extra."""
    slots: Annotated[int, whole(1, 4096)] = 16
    """Sequences that are computed together."""
    max_context: Annotated[int, whole(1, 10_000_000)] | None = None
    """Tokens of prompt and answer; none = what the model was trained with."""
    prefill_chunk: Annotated[int, whole(1, 65_536)] = 64
    """Prompt tokens taken into one step while somebody waits for a token."""
    min_chunk: Annotated[int, whole(1, 65_536)] = 16
    """The least of it, so that a long prompt goes on under load."""
    precision: Annotated[Literal["fp32", "bf16", "int8"], OneOf()] = "fp32"
    """The number format of the weights."""
    step_time: Duration = 0.0
    """echo alone: how long each step takes, as on a device that is busy; for rehearsals without a model."""

    def cross_check(self) -> Iterator[Finding]:
        yield from min_above_max(self.min_chunk, self.prefill_chunk, names=("min_chunk", "prefill_chunk"))
        if self.name != "echo":
            yield from without_effect(self, ["step_time"], "only the echo engine takes its time from here")
        if self.name == "echo":
            yield from without_effect(self, ["precision"], "the echo engine has no weights")


class Variant(SpecModel):
    """Another number format of the same version, for some tiers."""

    name: Name
    """Shown in answers and metrics."""
    precision: Annotated[Literal["fp32", "bf16", "int8"], OneOf()]
    """Its number format."""
    tiers: Many[TierName]
    """The tiers it answers."""
    gate: Gate | None = None
    """Quality it must keep; otherwise the plain version answers."""

    def cross_check(self) -> Iterator[Finding]:
        yield from repeated(self.tiers, "tiers", key="")
        if not self.tiers:
            yield Finding(("tiers",), Code.EMPTY, "names no tier", "a variant must answer at least one")


class Rollback(SpecModel):
    """When a canary is taken back by itself."""

    error_rate: Fraction = 0.02
    """Share of its requests that fail, above the stable version's."""
    burn_rate: Positive = 6.0
    """How many times faster than allowed it uses up a tier's SLO, above the stable version's."""
    after: PositiveDuration = 300.0
    """How long it is watched before it is believed."""


class Canary(SpecModel):
    """A second version that gets a part of the requests."""

    model: Reference
    """The version on trial."""
    weight: Annotated[float, real(0, 1, above=True)]
    """Its share of requests."""
    rollback: Rollback = Field(default_factory=Rollback)
    """When it is taken back."""


class Limits(SpecModel):
    """What one tenant may ask; none = no limit."""

    requests_per_min: Count | None = None
    """Requests."""
    tokens_per_min: Count | None = None
    """Tokens of prompt and answer."""
    concurrency: Count | None = None
    """Requests at once."""


class EndpointSpec(SpecModel):
    """Which model answers where, how fast, and with how many replicas."""

    model: Reference
    """A registered model: name@version or name@alias; an alias is followed while the endpoint runs."""
    listen: Listen = Field(default_factory=Listen)
    """Where requests come in."""
    keys: FilePath | None = None
    """The file of hashed API keys (`tide keys`); none = no keys, and loopback only."""
    queue: Name = "default"
    """The queue whose quota pays for the replicas."""
    placement: Annotated[Literal["shared", "dedicated"], OneOf()] = "shared"
    """shared = one pool of replicas for all tiers; dedicated = replicas of its own for each tier."""
    replicas: Replicas = Field(default_factory=Replicas)
    """How many; with dedicated placement, for each tier."""
    engine: Engine = Field(default_factory=Engine)
    """How one replica computes."""
    variants: Many[Variant] = ()
    """Other number formats for some tiers."""
    tiers: Tiers
    """Who must be answered how fast."""
    canary: Canary | None = None
    """A second version on trial."""
    limits: Limits = Field(default_factory=Limits)
    """What one tenant may ask."""
    notify: Many[Hook] = ()
    """Addresses that are called when it has ended: by a cancel, or for good because it failed too often."""

    def cross_check(self) -> Iterator[Finding]:
        yield from repeated((variant.name for variant in self.variants), "variants")
        yield from hook_findings(self.notify)
        yield from self._address()
        yield from self._tiers()
        if self.canary and self.canary.model == self.model:
            yield Finding(("canary", "model"), Code.CONFLICT, "is the stable version", "it must be another version")
        if self.canary and split_reference(self.canary.model)[0] != split_reference(self.model)[0]:
            want = f"it must be a version of {split_reference(self.model)[0]}"
            yield Finding(("canary", "model"), Code.CONFLICT, f"{self.canary.model!r} is another model", want)

    def _address(self) -> Iterator[Finding]:
        if self.keys is None and not self.listen.is_loopback:
            what = f"{self.listen.host!r} is reachable from other machines and there is no keys file"
            next_step = "Name a file under keys ('tide keys create' makes one), or listen on 127.0.0.1"
            yield Finding(("listen", "host"), Code.CONFLICT, what, "without keys it must be loopback", next_step)

    def _tiers(self) -> Iterator[Finding]:
        present = self.tiers.present()
        if self.placement == "dedicated" and len(present) == 1:
            yield from without_effect(self, ["placement"], "there is one tier, and all replicas are its own")
        claimed: dict[str, str] = {}
        for index, variant in enumerate(self.variants):
            for at, tier in enumerate(variant.tiers):
                path = ("variants", index, "tiers", at)
                if tier not in present:
                    yield Finding(path, Code.UNKNOWN_REFERENCE, f"there is no tier {tier!r}", "tiers must name it")
                elif claimed.setdefault(tier, variant.name) != variant.name:
                    what = f"tier {tier!r} is answered by variant {claimed[tier]!r} already"
                    yield Finding(path, Code.CONFLICT, what, "a tier must have one variant")


class Endpoint(Document):
    """A served model."""

    kind: Literal["Endpoint"] = "Endpoint"
    """What the document describes."""
    spec: EndpointSpec
    """What answers where."""
