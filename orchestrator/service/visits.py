"""Visits to running jobs: the server's end of the doors of job processes. Asyncio; one event loop.

A visit is one command that somebody runs beside a rank. It ends with its command, or when whoever watches it goes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.adapters.jobs.door import short_path
from orchestrator.spec.errors import ExitCode, UserError

MOST_VISITS = 64
ANSWER_S = 25.0
"""A job's process that does not answer within it is taken for stuck."""
WATCH_WITHIN_S = 30.0
"""Whoever begins a command and does not watch it by then has gone."""
SILENT_S = 15.0
_LINE_BYTES = 64 * 2**20
Json = dict[str, Any]


class NoDoorError(Exception):
    """The job has no process here that could be asked."""


@dataclass(slots=True)
class Visit:
    """One command. `actor`: who began it, and alone may go on with it; `terminal`: whether it sits at one."""

    job: str
    actor: str
    rank: int
    node: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    terminal: bool = False
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    watched: bool = False


class Visits:
    """`jobs`: the folder with a folder for every job's process; None: jobs have no processes here."""

    def __init__(self, jobs: Path | None) -> None:
        self._jobs = jobs
        self._visits: dict[str, Visit] = {}

    async def stacks(self, job: str, rank: int | None) -> Json:
        """Where the ranks of a job stand. Raises: NoDoorError; UserError."""
        reader, writer = await self._knock(job, {"ask": "stacks", "rank": rank})
        with contextlib.closing(writer):
            return await _answer(reader)

    async def begin(
        self,
        job: str,
        actor: str,
        command: Sequence[str],
        *,
        rank: int | None,
        node: str | None,
        terminal: Json | None = None,
    ) -> Visit:
        """Begin a command; `terminal`: at one of that kind and size. Raises: NoDoorError; UserError."""
        if len(self._visits) >= MOST_VISITS:
            problem = f"{len(self._visits)} commands run in jobs already; {MOST_VISITS} may"
            raise UserError(problem, code=ExitCode.CONFLICT, next_step="End one of them first")
        wanted = {"ask": "exec", "command": list(command), "rank": rank, "node": node, "terminal": terminal}
        reader, writer = await self._knock(job, wanted)
        try:
            began = (await _answer(reader))["began"]
        except BaseException:
            writer.close()
            raise
        visit = Visit(
            job=job,
            actor=actor,
            rank=began["rank"],
            node=began["node"],
            reader=reader,
            writer=writer,
            # The process of a job that an earlier version has started knows of none.
            terminal=began.get("terminal", False),
        )
        self._visits[visit.id] = visit
        asyncio.get_running_loop().call_later(WATCH_WITHIN_S, self._forget_unwatched, visit)
        return visit

    def find(self, job: str, visit: str, actor: str) -> Visit:
        """A visit of that actor to that job. Raises: UserError (unknown)."""
        found = self._visits.get(visit)
        if found is None or found.job != job or found.actor != actor:
            raise UserError("there is no such command, or it has ended", code=ExitCode.UNKNOWN)
        return found

    def watch(self, visit: Visit) -> AsyncIterator[Json]:
        """Its output as `{"stream", "data"}` (base64), at last `{"code", "why"}`; `{}` while it says nothing.

        Whoever leaves before that ends the command.
        """
        if visit.watched:
            raise UserError("somebody watches the command already", code=ExitCode.CONFLICT)
        return self._watch(visit)

    async def _watch(self, visit: Visit) -> AsyncIterator[Json]:
        visit.watched = True  # from the first look on: an answer that is never sent watches nothing
        try:
            while True:
                try:
                    line = await asyncio.wait_for(visit.reader.readline(), SILENT_S)
                except TimeoutError:
                    yield {}
                    continue
                if not line:
                    break
                said = json.loads(line)
                if "out" in said:
                    yield {"stream": "stdout" if said["out"] == 1 else "stderr", "data": said["data"]}
                elif "exit" in said:
                    yield {"code": said["exit"], "why": said["why"]}
                    return
                else:
                    yield {"code": 137, "why": said.get("error", {}).get("problem", "the job's process said nonsense")}
                    return
            yield {"code": 137, "why": "the job's process has ended"}
        finally:
            self.end(visit)

    async def tell(self, visit: Visit, data: bytes, *, end: bool, size: Json | None = None) -> None:
        """Input for the command, its end, or its terminal's size; waits while the command reads nothing."""
        message = {"in": base64.b64encode(data).decode(), "end": end, "size": size}
        with contextlib.suppress(ConnectionError):  # it has ended: its watcher is told
            visit.writer.write(json.dumps(message).encode() + b"\n")
            await visit.writer.drain()

    def end(self, visit: Visit) -> None:
        """End the command, if it runs."""
        self._visits.pop(visit.id, None)
        visit.writer.close()

    def close(self) -> None:
        """End all of them."""
        for visit in list(self._visits.values()):
            self.end(visit)

    def _forget_unwatched(self, visit: Visit) -> None:
        if not visit.watched and visit.id in self._visits:
            self.end(visit)

    async def _knock(self, job: str, wanted: Json) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._jobs is None:
            raise NoDoorError
        try:
            with short_path(self._jobs / job) as path:
                reader, writer = await asyncio.open_unix_connection(path, limit=_LINE_BYTES)
        except (FileNotFoundError, ConnectionError, NotADirectoryError):
            raise NoDoorError from None
        writer.write(json.dumps(wanted).encode() + b"\n")
        return reader, writer


async def _answer(reader: asyncio.StreamReader) -> Json:
    try:
        line = await asyncio.wait_for(reader.readline(), ANSWER_S)
        said: Json = json.loads(line)
    except (TimeoutError, ValueError, ConnectionError):
        problem = "the job's process does not answer"
        raise UserError(
            problem, code=ExitCode.UNREACHABLE, next_step="Try again; 'tide logs' shows how it is"
        ) from None
    if "error" in said:
        error = said["error"]
        raise UserError(error["problem"], code=ExitCode(error["code"]), next_step=error["next_step"])
    return said
