"""How an endpoint's replicas become what its file says now, however often and whenever the file changes.

What is wanted is in the folder's `job.json`; what was begun is kept before it is carried out, so a process that is
killed anywhere in it is followed by one that goes on. A file that cannot be served leaves, or brings back, what was
before. Refuses to know Ray and Serve: whoever carries it out is a `Rollable`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from orchestrator.adapters.endpoints.life import Begun, Document, Life, Refusal, read_begun, write_begun
from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.spec.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far replicas are: `fresh` of `wanted` are made of what is wanted now and answer; `failed`: why no more will
    be. `settled`: all are, and nothing is on its way."""

    fresh: int
    wanted: int
    settled: bool = False
    failed: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How far the last change has come, in the words of the API: rolling, waiting, done or refused."""

    state: str
    detail: str


_WAITS = Change(state="waiting", detail="for a free device, on which a new replica starts before the old one goes")


class Rollable(Protocol):
    """Replicas that can become others while they answer, as `ray_serve.held.HeldEndpoint` is one."""

    def first(self, document: Document) -> Life:
        """What replicas are made of to begin with; nothing is started. Raises: UserError."""
        ...

    def start(self, life: Life, seats: Mapping[str, int]) -> None:
        """Begin to serve that, or go on. Raises: UserError."""
        ...

    def plan(self, document: Document) -> Life:
        """What replicas would be made of. Raises: UserError for what cannot be served, or not in their place."""
        ...

    def has_room(self, life: Life) -> bool:
        """Whether replicas could become that now without an interruption."""
        ...

    def roll(self, life: Life) -> None:
        """Begin to become that."""
        ...

    def progress(self) -> Progress:
        """How far it has come."""
        ...


class Rollouts:
    """The changes of one endpoint. Used from one thread; `say` writes into its log."""

    def __init__(self, folder: JobFolder, held: Rollable, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._held = held
        self._say = say
        self._stamp: object = None
        self._begun: Begun | None = None
        self._waits: Document | None = None
        self._moving = False
        self._failed: set[str] = set()
        self.change: Change | None = None

    @property
    def begun(self) -> Begun:
        """What replicas are made of, or are becoming."""
        assert self._begun is not None, "it was begun"
        return self._begun

    @property
    def is_moving(self) -> bool:
        """Whether replicas are becoming something else, or what they were again."""
        return self._moving

    def begin(self, seats: Mapping[str, int]) -> None:
        """Serve what the file says, or go on with what a process before has begun. Raises: UserError."""
        self._stamp = self._folder.job_stamp()
        document, _ = self._folder.read_job()
        begun = read_begun(self._folder.path, document)
        # Kept before anything is there: whatever may answer one day is known to be taken down.
        self._keep(begun or Begun(now=self._held.first(document)))
        self._held.start(self.begun.now, seats)
        if begun is None:
            return
        self._moving = True
        if begun.before is not None:
            self._say("a roll-out was under way; it goes on")
        self._show()
        self._want(document)

    def look(self) -> None:
        """Take a file that has changed."""
        stamp = self._folder.job_stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            self._want(self._folder.read_job()[0])

    def follow(self) -> None:
        """See how far a roll-out has come. Raises: RuntimeError where replicas cannot be what they were, either."""
        if self._moving:
            self._follow(self._held.progress())

    def try_again(self) -> None:
        """What waits for a device, or for a version that nobody had registered: now and then."""
        if self._waits is not None:
            self._try(self._waits)

    def become(self, life: Life) -> None:
        """Serve another version that no running replica can change to, unless that has failed before."""
        if life.ref not in self._failed and self._held.has_room(life):
            self._roll(life)

    def served(self, life: Life) -> None:
        """Replicas have followed the registry, or taken a canary back: a later process goes on with that."""
        assert not self._moving, "nothing else is under way"
        self._keep(replace(self.begun, now=life))

    def _want(self, document: Document) -> None:
        """The file is this now."""
        self._waits, refused = None, self.begun.refused
        if refused is not None and refused.document != document:
            self._keep(replace(self.begun, refused=None))
        elif refused is not None and refused.tried:
            return
        if self.begun.now.document != document:
            self._try(document)
        else:
            self._show()

    def _try(self, document: Document) -> None:
        self._waits, before = document, self.begun.before
        try:
            life = self._held.plan(document)
        except UserError as error:
            self._refuse(Refusal(document=document, error=str(error), tried=False))
            return
        if self._held.has_room(life) or (before is not None and before.document == document):
            self._roll(life)
            return
        if self.change != _WAITS:
            self._say(f"a changed file waits {_WAITS.detail}")
        self._show()

    def _roll(self, life: Life) -> None:
        self._keep(self.begun.rolling(life))
        self._say("replicas become what the file says now")
        self._waits, self._moving = None, True
        self._show()
        self._held.roll(life)

    def _follow(self, progress: Progress) -> None:
        begun = self.begun
        if progress.failed is not None:
            if begun.before is None:
                raise RuntimeError(progress.failed)  # there is nothing better to go back to
            self._failed.add(begun.now.ref)
            self._refuse(Refusal(document=begun.now.document, error=progress.failed))
            self._held.roll(self.begun.now)
        elif progress.settled:
            self._moving = False
            if begun.before is not None:
                self._keep(replace(begun, before=None))
                self._say(f"rolled out: {progress.fresh} replicas are what the file says")
            self._show()
        else:
            self._show(progress)

    def _refuse(self, refusal: Refusal) -> None:
        if refusal != self.begun.refused:
            self._say(f"the file is not followed, what was before goes on: {refusal.error}")
            self._keep(self.begun.refuse(refusal) if refusal.tried else replace(self.begun, refused=refusal))
        self._show()

    def _show(self, progress: Progress | None = None) -> None:
        begun = self.begun
        if begun.refused is not None:
            self.change = Change(state="refused", detail=begun.refused.error)
        elif self._waits is not None:
            self.change = _WAITS
        elif begun.before is not None:
            far = f"{progress.fresh} of {progress.wanted} replicas" if progress else "replicas"
            self.change = Change(state="rolling", detail=f"{far} are what the file says")
        elif begun.changed:
            self.change = Change(state="done", detail="every replica is what the file says")

    def _keep(self, begun: Begun) -> None:
        if begun != read_begun(self._folder.path, begun.now.document):  # a full disk must not hinder who goes on
            write_begun(self._folder.path, begun)
        self._begun = begun


def change_as_json(change: Change | None) -> dict[str, Any] | None:
    """As others read it."""
    return None if change is None else {"state": change.state, "detail": change.detail}
