"""All three tiers of an endpoint at once, through the OpenAI client: how long each waits while a batch runs."""

from __future__ import annotations

import contextlib
import io
import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import openai

from orchestrator.spec import Endpoint
from orchestrator.spec.errors import UserError

_NO_KEY = "none"
_CODE = ("def mean(values):", "class Stack:", "import os\n", "for line in", "    return self.", "with open(path)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """One tier's callers: what OpenAI calls the tier, seconds between two requests, and tokens of each answer."""

    tier: str
    service_tier: str
    every_s: float
    max_tokens: int


ASKINGS = (
    Asking(tier="keystroke", service_tier="priority", every_s=0.2, max_tokens=8),
    Asking(tier="interactive", service_tier="default", every_s=1.0, max_tokens=32),
    Asking(tier="batch", service_tier="flex", every_s=2.0, max_tokens=32),
)


@dataclass(slots=True)
class Waited:
    """Seconds from sending to the whole answer of each request, and how many were refused."""

    asking: Asking
    promised_s: float | None
    seconds: list[float] = field(default_factory=list)
    refused: int = 0

    def quantile_s(self, share: float) -> float | None:
        """The least wait that so many of the answers were not above."""
        ordered = sorted(self.seconds)
        return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None

    @property
    def in_time(self) -> float | None:
        """Share of all requests that were answered as promised; None where nothing is promised."""
        if self.promised_s is None or not (self.seconds or self.refused):
            return None
        good = sum(waited_s <= self.promised_s for waited_s in self.seconds)
        return good / (len(self.seconds) + self.refused)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What came of it: the waits of each tier, and rows of the batch that were done meanwhile."""

    waits: tuple[Waited, ...]
    batch_rows: int
    batch_rows_done: int
    seconds: float


def try_tiers(url: str, endpoint: Endpoint, model: str, *, seconds: float, batch_rows: int = 2000) -> Tried:
    """Ask every tier that the endpoint has for so many seconds beside a batch, of which the rest is then cancelled.

    Raises: UserError when the batch or a request fails.
    """
    offered = endpoint.spec.tiers.present()
    waits = [Waited(asking, _promised_s(endpoint, asking)) for asking in ASKINGS if asking.tier in offered]
    try:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=_NO_KEY, max_retries=0) as client:
            batch_id = _submit(client, model, batch_rows)
            began_s = time.monotonic()
            with _asking(client, model, waits, until_s=began_s + seconds):
                time.sleep(seconds)
                # Before the last answers are waited for: one of the batch's tier may come after all of its rows.
                took_s, done = time.monotonic() - began_s, _end(client, batch_id)
            return Tried(waits=tuple(waits), batch_rows=batch_rows, batch_rows_done=done, seconds=took_s)
    except openai.OpenAIError as error:
        raise UserError(f"asking the tiers failed: {error}", where=url) from error


def _promised_s(endpoint: Endpoint, asking: Asking) -> float | None:
    tiers = endpoint.spec.tiers
    online = {"keystroke": tiers.keystroke, "interactive": tiers.interactive}.get(asking.tier)
    return None if online is None else online.slo.latency + online.slo.per_token * asking.max_tokens


def _submit(client: openai.OpenAI, model: str, num_rows: int) -> str:
    rows = io.BytesIO()
    for index in range(num_rows):
        body = {"model": model, "prompt": _CODE[index % len(_CODE)], "max_tokens": 48, "seed": index}
        row = {"custom_id": f"row-{index}", "method": "POST", "url": "/v1/completions", "body": body}
        rows.write(json.dumps(row).encode() + b"\n")
    file = client.files.create(file=("rows.jsonl", rows.getvalue()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    return batch.id


def _end(client: openai.OpenAI, batch_id: str) -> int:
    """Cancel what is left of the batch; returns how many rows were done."""
    try:
        batch = client.batches.cancel(batch_id)
    except openai.ConflictError:  # it was done before
        batch = client.batches.retrieve(batch_id)
    return batch.request_counts.completed if batch.request_counts else 0


@contextlib.contextmanager
def _asking(client: openai.OpenAI, model: str, waits: Sequence[Waited], *, until_s: float) -> Iterator[None]:
    """A thread for each tier; leaving waits for their last answers, and raises the first error of any."""
    errors: list[openai.OpenAIError] = []

    def work(wait: Waited) -> None:
        try:
            _ask_one_tier(client, model, wait, until_s)
        except openai.OpenAIError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(wait,), daemon=True) for wait in waits]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _ask_one_tier(client: openai.OpenAI, model: str, wait: Waited, until_s: float) -> None:
    count = 0
    while (sent_s := time.monotonic()) < until_s:
        count += 1
        try:
            client.completions.create(
                model=model,
                prompt=_CODE[count % len(_CODE)],
                max_tokens=wait.asking.max_tokens,
                extra_body={"service_tier": wait.asking.service_tier},
            )
            wait.seconds.append(time.monotonic() - sent_s)
        except openai.RateLimitError:
            wait.refused += 1
        time.sleep(max(0.0, sent_s + wait.asking.every_s - time.monotonic()))
