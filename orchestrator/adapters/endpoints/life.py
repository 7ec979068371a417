"""What an endpoint's process keeps of what it has begun, so that the next one goes on where a killed one was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.adapters.files import read_json, write_json
from orchestrator.adapters.jobs.folder import BEGUN

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What replicas are made of. `document`: their file; `built`: the version that they are built with; `ref`: the one
    that answers, as the alias was followed; `taken_back`: why the file's canary gets no requests any more."""

    document: Document
    built: str
    ref: str
    taken_back: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A file that cannot be served, and why; what was before goes on. `tried`: replicas were started with it."""

    document: Document
    error: str
    tried: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """`now`: what replicas are made of, or are becoming; `before`: what they were, while they become another;
    `refused`: the last file that did not hold; `changed`: whether the file ever changed."""

    now: Life
    before: Life | None = None
    refused: Refusal | None = None
    changed: bool = False

    def rolling(self, life: Life) -> Begun:
        """Become something else. What goes on, should that fail, is the last that all replicas were."""
        return Begun(now=life, before=self.before or self.now, refused=None, changed=True)

    def refuse(self, refusal: Refusal) -> Begun:
        """Stay, or become again, what they were."""
        return replace(self, now=self.before or self.now, before=None, refused=refusal, changed=True)


def read_begun(folder: Path, document: Document) -> Begun | None:
    """What was kept last; None where nothing was. `document`: the file where a process of before kept none."""
    data = read_json(folder / BEGUN)
    if data is None:
        return None
    if "now" not in data:
        return Begun(now=Life(document=document, built=data["ref"], ref=data["ref"]))
    before, refused = data["before"], data["refused"]
    return Begun(
        now=Life(**data["now"]),
        before=Life(**before) if before else None,
        refused=Refusal(**refused) if refused else None,
        changed=data["changed"],
    )


def write_begun(folder: Path, begun: Begun) -> None:
    """Replace what was kept before."""
    write_json(folder / BEGUN, asdict(begun))
