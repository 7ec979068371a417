"""/api/v1/nodes: the machines behind the pools, which of them are held back, and by whom."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path

from orchestrator.api import models, render
from orchestrator.api.paging import after_of, page_of
from orchestrator.api.parts import Cursor, Limit, TheCaller, TheService
from orchestrator.api.problem_answers import responses
from orchestrator.api.service import Service
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.keys import Role
from orchestrator.policy.node_health import HoldCause, NodeHold
from orchestrator.policy.queueing.places import Node
from orchestrator.spec.errors import ExitCode

router = APIRouter(prefix="/api/v1/nodes", tags=["cluster"])
NodeName = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", description="The whole name.")]


@router.get("", response_model=models.NodeList, responses=responses())
async def list_nodes(
    service: TheService, caller: TheCaller, limit: Limit = 100, cursor: Cursor = None
) -> dict[str, Any]:
    """Nodes by pool and name, page by page: as the last cycle of this server saw them, and at the end those that are
    held back though they are gone."""
    last = after_of(cursor)
    every = await service.reading(_nodes, service)
    # A node may be in two pools; one that is gone is in none, and follows all others.
    left = [one for one in every if last is None or _order(_id(one)) > _order(last)]
    shown, following = page_of(left, limit, _id)
    return {"items": shown, "next_cursor": following}


def _id(node: dict[str, Any]) -> str:
    return f"{node['pool'] or ''}/{node['name']}"


def _order(node: str) -> tuple[bool, str, str]:
    pool, _, name = node.partition("/")
    return (not pool, pool, name)


@router.post("/{node}/hold", response_model=models.NodeList, responses=responses(404, 409))
async def hold_node(
    node: NodeName, body: models.NodeHoldBody, service: TheService, caller: TheCaller
) -> dict[str, Any]:
    """Give a node nothing new, and let what runs there go elsewhere in order."""
    caller.need(Role.ADMIN)
    seen = {one.name for pool in service.watched.pools or () for one in pool.nodes}
    if node not in seen:
        raise LedgerError(f"there is no node {node!r}", code=ExitCode.UNKNOWN, next_step="See 'tide node ls'")
    now_s = service.clock()
    until_s = None if body.for_s is None else now_s + body.for_s
    hold = NodeHold(node=node, cause=HoldCause.PERSON, since_s=now_s, until_s=until_s, detail=body.reason)
    await service.writer.do(lambda: service.ledger.hold_node(hold, actor=caller.actor))
    return await _one(service, node)


@router.post("/{node}/release", response_model=models.NodeList, responses=responses(404, 409))
async def release_node(node: NodeName, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """Let a node work again; what has died on it so far counts no more."""
    caller.need(Role.ADMIN)
    await service.writer.do(lambda: service.ledger.release_node(node, actor=caller.actor))
    return await _one(service, node)


async def _one(service: Service, node: str) -> dict[str, Any]:
    every = await service.reading(_nodes, service)
    return {"items": [one for one in every if one["name"] == node], "next_cursor": None}


def _nodes(service: Service) -> list[dict[str, Any]]:
    holds, leased = service.read.node_holds(), _leased(service)
    found = [
        _node(node, pool.name, leased.get(node.name, 0), holds.get(node.name))
        for pool in sorted(service.watched.pools or (), key=lambda one: one.name)
        for node in sorted(pool.nodes, key=lambda one: one.name)
    ]
    there = {one["name"] for one in found}
    gone = [_node(Node(name=name, devices=0), None, 0, holds[name]) for name in sorted(holds.keys() - there)]
    return [*found, *({**one, "state": "gone"} for one in gone)]


def _node(node: Node, pool: str | None, leased: int, hold: NodeHold | None) -> dict[str, Any]:
    # The books may know more than the last cycle did.
    state = "leaving" if node.state.value == "leaving" else "ok" if hold is None else "held"
    return {
        "name": node.name,
        "pool": pool,
        "devices": node.devices,
        "leased": leased,
        "place": list(node.place),
        "state": state,
        "hold": None if hold is None else _hold(hold),
    }


def _hold(hold: NodeHold) -> dict[str, Any]:
    return {
        "cause": hold.cause,
        "since": render.instant(hold.since_s),
        "until": None if hold.until_s is None else render.instant(hold.until_s),
        "detail": hold.detail,
        "by": hold.actor,
    }


def _leased(service: Service) -> dict[str, int]:
    found: dict[str, int] = {}
    for lease in service.read.leases():
        for node, devices in lease.nodes:
            found[node] = found.get(node, 0) + devices
    return found
