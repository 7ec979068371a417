"""The open-loop client, a process of its own on its own core: sends on schedule, whatever became of earlier requests.

    python -m tests.benchmarks.serving_client PLAN.json RESULT.json

Latency counts from the scheduled moment, so a client that falls behind does not flatter the server. What is not
answered when the run ends is noted with the time it had waited: its latency is at least that.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

SERVICE_TIERS = {"keystroke": "priority", "interactive": "default", "batch": "flex"}
_PATIENCE_S = 6.0  # longer than any promise
_RETRY_WITHIN_S = 0.5


class Client:
    """One run of a load against one address per tier."""

    def __init__(self, plan: dict[str, Any], session: aiohttp.ClientSession) -> None:
        self._plan = plan
        self._session = session
        self._rng = random.Random(plan["seed"])
        self._start_s = 0.0
        self._records: list[dict[str, Any]] = []

    async def run(self) -> list[dict[str, Any]]:
        """Send everything; returns one record per request."""
        self._start_s = time.perf_counter()
        jobs = [asyncio.create_task(self._online(arrival)) for arrival in self._plan["arrivals"]]
        jobs += [asyncio.create_task(self._backlog()) for _ in range(self._plan["batch_outstanding"])]
        await self._until(self._plan["seconds"])
        _, open_jobs = await asyncio.wait(jobs, timeout=_PATIENCE_S) if jobs else ((), ())
        for job in open_jobs:
            job.cancel()
        await asyncio.gather(*open_jobs, return_exceptions=True)
        return self._records

    async def _online(self, arrival: dict[str, Any]) -> None:
        arrival = {**arrival, "prompt": self._prompt(arrival["prompt_tokens"])}  # the same when it comes again
        await self._until(arrival["at_s"])
        record = await self._ask(arrival, arrival["at_s"])
        if self._plan["retry"] and record["retry_after_s"] is not None:
            at_s = record["done_s"] + record["retry_after_s"] + self._rng.uniform(0, _RETRY_WITHIN_S)
            if at_s < self._plan["seconds"]:
                await self._until(at_s)
                await self._ask({**arrival, "at_s": at_s}, at_s, hinted=True)

    async def _backlog(self) -> None:
        prompt, tokens = self._plan["batch_shape"]
        while (now_s := self._now_s()) < self._plan["seconds"]:
            ask = {
                "tier": "batch",
                "prompt": self._prompt(prompt),
                "max_tokens": tokens,
                "phase": "batch",
                "session": None,
            }
            record = await self._ask(ask, now_s)
            if record["status"] != 200:
                await asyncio.sleep(min(1.0, record["retry_after_s"] or 0.1))

    async def _ask(self, arrival: dict[str, Any], at_s: float, *, hinted: bool = False) -> dict[str, Any]:
        record = {"tier": arrival["tier"], "phase": arrival["phase"], "session": arrival["session"], "at_s": at_s,
                  "sent_s": self._now_s(), "done_s": None, "status": None, "tokens": 0, "finish": None,
                  "asked_tokens": arrival["max_tokens"], "hinted": hinted, "retry_after_s": None}  # fmt: skip
        self._records.append(record)
        try:
            await self._post(arrival, record)
        except (aiohttp.ClientError, TimeoutError) as error:
            record["finish"] = type(error).__name__
        finally:  # also when the run ends before the answer
            record["done_s"] = self._now_s()
        return record

    async def _post(self, arrival: dict[str, Any], record: dict[str, Any]) -> None:
        body = {
            "model": "bench",
            "prompt": arrival["prompt"],
            "max_tokens": arrival["max_tokens"],
            "temperature": 0,
            "service_tier": SERVICE_TIERS[arrival["tier"]],
        }
        if arrival["session"]:
            body["prompt_cache_key"] = arrival["session"]
        async with self._session.post(f"{self._plan['urls'][arrival['tier']]}/v1/completions", json=body) as response:
            record["status"] = response.status
            if response.status == 429 or response.status == 503:
                record["retry_after_s"] = _hint_s(response.headers)
            if response.status == 200:  # refusals may have no body
                document = await response.json(content_type=None)
                record["tokens"] = document["usage"]["completion_tokens"]
                record["finish"] = document["choices"][0]["finish_reason"]

    def _prompt(self, num_tokens: int) -> str:
        return "".join(self._rng.choices("abcdefgh ijklm", k=num_tokens))

    def _now_s(self) -> float:
        return time.perf_counter() - self._start_s

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - self._now_s()))


def _hint_s(headers: Any) -> float | None:
    if "retry-after-ms" in headers:
        return float(headers["retry-after-ms"]) / 1000
    return float(headers["retry-after"]) if "retry-after" in headers else None


async def _main(plan: dict[str, Any]) -> list[dict[str, Any]]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        return await Client(plan, session).run()


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(json.dumps(asyncio.run(_main(json.loads(source.read_text())))))
