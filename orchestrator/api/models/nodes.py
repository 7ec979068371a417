"""Machines behind the pools, and why some are held back."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orchestrator.api.models.base import Model
from orchestrator.policy.node_health import HoldCause


class NodeHold(Model):
    """Why a node is held back, and until when; `until` None: until somebody lets it go."""

    cause: HoldCause
    since: str
    until: str | None
    detail: str
    by: str


class NodeItem(Model):
    """A node as the last cycle saw it; `state` `gone`: one that is held back and is not there any more."""

    name: str
    pool: str | None
    devices: int
    leased: int
    place: list[str]
    state: Literal["ok", "held", "leaving", "gone"]
    hold: NodeHold | None


class NodeList(Model):
    """A page of nodes, by pool and name; those that are gone at the end."""

    items: list[NodeItem]
    next_cursor: str | None


class NodeHoldBody(Model):
    """How long (None: until it is let go), and why."""

    for_s: float | None = Field(default=None, gt=0, le=31_536_000)
    reason: str = Field(default="", max_length=400)
