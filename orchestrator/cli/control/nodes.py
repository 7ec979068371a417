"""`tide node ls|hold|release`: the machines behind the pools."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.cli.control.connect import connected, seconds
from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.client.client import Client, part
from orchestrator.spec.errors import ExitCode, UserError

node_app = typer.Typer(no_args_is_help=True, help="List nodes; hold one back from work, or let it go.")
Json = dict[str, Any]
Name = Annotated[str, typer.Argument(help="A node; the begin of its name will do.", show_default=False)]


@node_app.command("ls")
def list_nodes(output: Output = Format.TABLE) -> None:
    """List nodes, what is leased on them, and why some are held back."""
    with connected() as client:
        found = {"items": list(client.every("/nodes"))}
    emit("NodeList", found, output, table=_table(found["items"]) if found["items"] else "no node was seen yet")


def _table(nodes: list[Json]) -> Any:
    columns = ("NODE", "POOL", "DEVICES", "LEASED", "STATE", "WHY")
    rows = [(one["name"], one["pool"], one["devices"], one["leased"], one["state"], _why(one)) for one in nodes]
    return make_table(columns, rows, right=("DEVICES", "LEASED"))


def _why(node: Json) -> str:
    hold = node["hold"]
    if hold is None:
        return ""
    until = f"until {hold['until'][:19]}" if hold["until"] else "until it is released"
    why = hold["detail"] or hold["cause"]
    return f"{why}, {until}" + ("" if hold["by"] == "system" else f", by {hold['by']}")


@node_app.command("hold")
def hold(
    node: Name,
    for_: Annotated[str | None, typer.Option("--for", help="How long, such as 2h; default: until released.")] = None,
    reason: Annotated[str, typer.Option(help="Why, for others to read.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Give a node nothing new; what runs there saves its state and goes elsewhere."""
    for_s = None if for_ is None else seconds(for_, "--for")
    _ask(node, "hold", {"for_s": for_s, "reason": reason}, "gets nothing new; what runs there goes elsewhere", output)


@node_app.command("release")
def release(node: Name, output: Output = Format.TABLE) -> None:
    """Let a node work again."""
    _ask(node, "release", None, "works again", output)


def _ask(node: str, verb: str, body: Json | None, line: str, output: Format) -> None:
    with connected(start=True) as client:
        name = _whole(client, node)
        found = client.post(f"/nodes/{part(name)}/{verb}", body)
    emit("NodeList", found, output, table=f"node {name} {line}")


def _whole(client: Client, node: str) -> str:
    names = sorted({one["name"] for one in client.every("/nodes")})
    found = [name for name in names if name.startswith(node)]
    if node in names or len(found) == 1:
        return node if node in names else str(found[0])
    problem = f"{len(found) or 'no'} nodes have a name that begins with {node!r}"
    raise UserError(problem, code=ExitCode.UNKNOWN, next_step="'tide node ls' lists them")
