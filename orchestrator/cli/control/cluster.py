"""`tide apply`, `queue`, `usage`: the cluster, its queues, and who used what."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.control.connect import connected
from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.cli.submit import submit
from orchestrator.client.client import part
from orchestrator.spec import Cluster, Endpoint, load_one_of

apply_app, usage_app = typer.Typer(), typer.Typer()
queue_app = typer.Typer(no_args_is_help=True, help="Queues, pools and leases; hold a queue, or let it go.")
Json = dict[str, Any]
Name = Annotated[str, typer.Argument(help="A queue.", show_default=False)]


@apply_app.command()
def apply(
    file: Annotated[Path, typer.Argument(help="A YAML file with one Cluster or Endpoint.", show_default=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change or drain.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Make a Cluster the one that holds. What it takes away must not be in use: exit 7, with the jobs in question.

    An Endpoint is submitted; one that is there follows its file without an interruption.
    """
    cluster = load_one_of(file, (Cluster, Endpoint), now=dt.datetime.now(dt.UTC))
    if isinstance(cluster, Endpoint):
        submit(file, dry_run=dry_run, output=output)
        return
    assert isinstance(cluster, Cluster), "only these are asked for"
    with connected(start=not dry_run) as client:
        found = client.apply(cluster.to_document(), dry_run=dry_run)
    emit("ClusterDifference", found, output, table=_difference(found))


def _difference(found: Json) -> str:
    head = f"generation {found['generation']} holds" if found["applied"] else "nothing was applied; it would change"
    lines = [head] + [f"  at once: {line}" for line in found["live"]]
    lines += [f"  drains first: {line}" for line in found["drains"]]
    return "\n".join(lines if len(lines) > 1 else [*lines, "  nothing differs"])


@queue_app.command("ls")
def list_queues(output: Output = Format.TABLE) -> None:
    """List queues, their quotas, and what waits in them."""
    with connected() as client:
        found = client.get("/queues")
    rows = [
        (
            one["name"] + (" (on hold)" if one["on_hold"] else ""),
            "\n".join(f"{each['pool']}: {each['held']} of {_many(each['nominal'])}" for each in one["quotas"]),
            one["running"],
            one["waiting"],
            ", ".join(f"{reason} {count}" for reason, count in one["reasons"].items()),
        )
        for one in found["items"]
    ]
    emit("QueueList", found, output, table=make_table(("QUEUE", "DEVICES", "RUNNING", "WAITING", "WHY"), rows))


def _many(devices: int) -> str:
    return "all" if devices >= 10**9 else str(devices)


@queue_app.command("hold")
def hold(queue: Name, output: Output = Format.TABLE) -> None:
    """Start nothing more from a queue; what runs goes on with the devices it has.

    Jobs are still accepted, and wait with the reason OnHold. An attempt that fails meanwhile is not tried again on its
    seats: its devices are given back, the failure counts, and the job waits like all others until the queue is
    released. Training jobs are given no more devices. Endpoints that run still follow their requests, and are started
    again if they fail. A run that tries again by itself, within one attempt, goes on doing so: `tide pause JOB` stops
    it.
    """
    _set(queue, "hold", "is on hold: what runs goes on, no job starts, restarts or grows", output)


@queue_app.command("release")
def release(queue: Name, output: Output = Format.TABLE) -> None:
    """Let a queue start jobs again."""
    _set(queue, "release", "starts jobs again", output)


def _set(queue: str, verb: str, line: str, output: Format) -> None:
    with connected(start=True) as client:
        found = client.post(f"/queues/{part(queue)}/{verb}")
    emit("QueueList", found, output, table=f"queue {queue} {line}")


@queue_app.command("pools")
def pools(output: Output = Format.TABLE) -> None:
    """List pools: devices that are there, leased, draining, kept for endpoints."""
    with connected() as client:
        found = client.get("/pools")
    columns = ("POOL", "DEVICE", "MARKET", "USD/H", "THERE", "ASKED", "LEASED", "DRAINING", "KEPT", "NODES")
    rows = [
        (
            one["name"] + ("" if one["in_sight"] in (True, None) else " (out of sight)"),
            one["device"],
            one["market"],
            one["usd_per_device_hour"],
            *(one[key] for key in ("observed", "asked", "leased", "draining", "headroom")),
            len(one["nodes"]),
        )
        for one in found["items"]
    ]
    emit("PoolList", found, output, table=make_table(columns, rows, right=columns[3:]))
    for one in found["items"]:
        if one["asked_why"]:
            typer.echo(f"{one['name']}: {one['asked']} devices asked for are not there: {one['asked_why']}", err=True)


@queue_app.command("leases")
def leases(
    pool: Annotated[str | None, typer.Option(help="Only of this pool.")] = None, output: Output = Format.TABLE
) -> None:
    """List who holds devices now."""
    with connected() as client:
        found = {"items": list(client.every("/leases", pool=pool))}
    columns = ("JOB", "ATTEMPT", "POOL", "DEVICES", "SINCE", "STATE", "UNTIL", "QUEUE", "TENANT")
    keys = ("holder", "attempt", "pool", "devices", "since", "state", "until", "queue", "tenant")
    rows = [[one[key] for key in keys] for one in found["items"]]
    emit("LeaseList", found, output, table=make_table(columns, rows) if rows else "nobody holds anything")


@usage_app.command()
def usage(output: Output = Format.TABLE) -> None:
    """Show what devices were paid for, what that was good for, and what each tenant was booked for."""
    with connected() as client:
        found = client.get("/usage")
    kinds = ("paid", "useful", "stalled", "lost", "draining", "idle", "open", "held")
    pools = [(name, *(f"{each.get(kind, 0) / 3600:.2f}" for kind in kinds)) for name, each in found["pools"].items()]
    tenants = [
        (one["tenant"], one["jobs"], f"{one['device_hours']:.2f}", one["spent_usd"], *_grants(one))
        for one in found["tenants"]
    ]
    running = [(one["job"], one["tenant"], *_used(one)) for one in found["running"]]
    if output is Format.TABLE and running:
        used = ("RUNNING", "TENANT", "KWH", "G CO2", "USD BY THE HOUR")
        emit("Usage", found, output, table=make_table(used, running, right=used[2:]))
        if left_off := found.get("running_left_off"):
            typer.echo(f"and {left_off} more jobs that hold devices: 'tide describe JOB' has theirs", err=True)
    table = make_table(("TENANT", "JOBS", "DEVICE-HOURS", "USD", "GRANTS LEFT", "SET ASIDE", "GRANTS SPENT"), tenants)
    if output is Format.TABLE and pools:
        columns = ("POOL (device-hours)", *(kind.upper() for kind in kinds))
        emit("Usage", found, output, table=make_table(columns, pools, right=columns[1:]))
    emit("Usage", found, output, table=table if tenants else "no job was submitted yet")


def _used(one: Json) -> tuple[str, str, str]:
    """Energy, carbon and cost; what nobody says is left open."""
    kwh, grams, usd = (one[key] for key in ("kwh", "g_co2", "usd"))
    return (
        "" if kwh is None else f"{kwh:.3f}",
        "" if grams is None else f"{grams:.1f}",
        "" if usd is None else f"{usd:.4f}",
    )


def _grants(one: Json) -> tuple[str, str, str]:
    """What of its grants is left, set aside and spent; a server of before says what is left only."""
    spent = amounts(one.get("granted_spent", {}))
    worth = one.get("granted_steps_usd")
    priced = f" (steps worth {float(worth):.2f} dollars)" if worth is not None and float(worth) else ""
    return amounts(one["granted_left"]), amounts(one.get("granted_set_aside", {})), spent + priced


def amounts(granted: Json) -> str:
    """Amounts by unit, in words."""
    parts = []
    if "micro_usd" in granted:
        parts.append(f"{granted['micro_usd'] / 1e6:.2f} dollars")
    if "device_ms" in granted:
        parts.append(f"{granted['device_ms'] / 3.6e6:.2f} device-hours")
    if "iterations" in granted:
        parts.append(f"{granted['iterations']} steps")
    return ", ".join(parts)
