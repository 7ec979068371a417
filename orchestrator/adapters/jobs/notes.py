"""What happened in a run that is worth knowing outside, as notes for its reports. A fold over the run's events."""

from __future__ import annotations

import secrets
from collections import deque

from orchestrator.adapters.ray_train.events import AttemptClosed, Event, StacksTaken, Straggler, WorkerDied
from orchestrator.policy.queueing.orders import Note, NoteKind

KEPT = 64


class Notes:
    """The newest notes of one process of a job; those of another process have other ids."""

    def __init__(self) -> None:
        self._session = secrets.token_hex(4)
        self._count = 0
        self._kept: deque[Note] = deque(maxlen=KEPT)
        self._slow: dict[int, str] = {}

    def newest(self) -> tuple[Note, ...]:
        """The last ones, oldest first."""
        return tuple(self._kept)

    def observe(self, event: Event) -> None:
        """Something has happened in the run."""
        match event:
            case Straggler():
                self._straggler(event)
            case WorkerDied():
                self._add(event.at_s, NoteKind.WORKER_DIED, event.node_id, None, detail=event.detail)
            case StacksTaken():
                self._add(
                    event.at_s, NoteKind.STACKS_TAKEN, "", None, path=event.path, step=event.step, ranks=event.num_ranks
                )
            case AttemptClosed():
                for rank, node in sorted(self._slow.items()):  # the next group is measured anew
                    self._add(event.at_s, NoteKind.STRAGGLER_OVER, node, rank, detail="its group has ended")
                self._slow = {}
            case _:
                pass

    def session(self, at_s: float, **data: str | float | int) -> None:
        """A stage of the job's night."""
        self._add(at_s, NoteKind.SESSION, "", None, **data)

    def _straggler(self, event: Straggler) -> None:
        if event.over:
            self._slow.pop(event.rank, None)
        else:
            self._slow[event.rank] = event.node_id
        kind = NoteKind.STRAGGLER_OVER if event.over else NoteKind.STRAGGLER
        self._add(event.at_s, kind, event.node_id, event.rank, ratio=round(event.ratio, 2), steps=event.steps)

    def _add(self, at_s: float, kind: NoteKind, node: str, rank: int | None, **data: str | float | int) -> None:
        self._count += 1
        name = f"{self._session}-{self._count}"
        self._kept.append(Note(id=name, at_s=at_s, kind=kind, node=node, rank=rank, data=tuple(data.items())))
