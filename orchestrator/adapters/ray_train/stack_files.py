"""Stacks of ranks as files in the run's folder, for people: which rank, on which node, in which step, and where."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from pathlib import Path

import structlog

from orchestrator.adapters.ray_train.events import StacksTaken
from orchestrator.adapters.ray_train.protocol import StacksOf
from orchestrator.adapters.ray_train.stacks import RankStack

log = structlog.get_logger(__name__)

KEPT_FILES = 50


class StackFiles:
    """Files in `folder`, of which the newest are kept. A disk that is full loses a file, never a run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, attempt: int, step: int, stacks: Sequence[StacksOf], at_s: float, why: str) -> StacksTaken | None:
        """Write one file of what workers said; the event that names it, None if it could not be written."""
        stamp = dt.datetime.fromtimestamp(at_s, dt.UTC).strftime("%Y%m%dT%H%M%S.%f")[:-3]
        path = self._folder / f"attempt-{attempt}-{stamp}.txt"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = path.with_suffix(".draft")
            with open(draft, "w", encoding="utf-8", opener=_private) as file:
                file.write(as_text(stacks, step))
            draft.replace(path)
            for old in sorted(self._folder.glob("*.txt"), key=lambda one: one.stat().st_mtime)[:-KEPT_FILES]:
                old.unlink()
        except OSError as error:
            log.warning("the stacks of ranks could not be kept", path=str(path), error=str(error))
            return None
        return StacksTaken(
            at_s=at_s,
            attempt=attempt,
            step=step,
            num_ranks=sum(len(one.stacks) for one in stacks),
            path=str(path),
            detail=why,
        )


def as_text(stacks: Sequence[StacksOf], step: int) -> str:
    """What workers said, by rank. `step`: the last that the group had finished; whoever hangs, hangs in the next."""
    found = sorted(((stack, said.node_id) for said in stacks for stack in said.stacks), key=lambda one: one[0].rank)
    return "\n".join(f"{_head(stack, node, step)}\n{stack.text}\n" for stack, node in found)


def _head(stack: RankStack, node: str, step: int) -> str:
    return f"=== rank {stack.rank} on node {node[:12]}, in step {step + 1}, process {stack.pid} ({stack.how})"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
