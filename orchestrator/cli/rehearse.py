"""`tide window rehearse`: what lending would do with an endpoint's devices under a demand that was recorded."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer
from rich.console import Group

from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.spec import Cluster, Endpoint, load_one
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.fields import did_you_mean
from orchestrator.spec.problems import BadValueError
from orchestrator.spec.times import parse_instant

# The other verbs of 'tide window' need none of this, and it takes a third of a second.
if TYPE_CHECKING:
    from orchestrator.adapters.endpoints.demand import DemandSeries
    from orchestrator.adapters.endpoints.rehearse import Rehearsal, RehearsedDay
    from orchestrator.policy.lending.values import Terms

_MONDAY = dt.date(2026, 1, 5)


def rehearse_lending(
    cluster_file: Annotated[
        Path, typer.Argument(metavar="CLUSTER", help="A YAML file with one Cluster that lends.", show_default=False)
    ],
    endpoint_file: Annotated[
        Path, typer.Argument(metavar="ENDPOINT", help="A YAML file with one Endpoint.", show_default=False)
    ],
    demand_file: Annotated[
        Path,
        typer.Option(
            "--demand", metavar="FILE", help="Requests/s over time: CSV with t_seconds,NAME_rps.", show_default=False
        ),
    ],
    column: Annotated[
        str | None, typer.Option("--column", metavar="NAME", help="Column NAME_rps; default: the endpoint's name.")
    ] = None,
    pool: Annotated[
        str | None, typer.Option("--pool", metavar="NAME", help="Where its replicas are; needed if several pools lend.")
    ] = None,
    begins: Annotated[
        str | None,
        typer.Option(
            "--begins",
            metavar="TIME",
            help="When second 0 was, ISO 8601 with offset; default a Monday's 0:00.",
            show_default=False,
        ),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Play recorded demand against lending: what training would get, day by day, and whether requests would wait.

    Replicas come back as late as the Cluster's lending.recall_lead says, else as late as unmeasured ones are taken
    to. The first day is learnt from.
    """
    from orchestrator.adapters.endpoints.demand import load_demand
    from orchestrator.adapters.endpoints.rehearse import rehearse

    cluster, endpoint = load_one(cluster_file, Cluster), load_one(endpoint_file, Endpoint)
    terms = _terms(cluster, endpoint, pool, str(endpoint_file))
    demand = load_demand(demand_file, column or endpoint.metadata.name)
    begins_s = _begins_s(begins, terms)
    played = rehearse(terms, demand, begins_s=begins_s)
    emit("LendingRehearsal", _document(terms, demand, begins_s, played), output, table=_table(terms, demand, played))


def _terms(cluster: Cluster, endpoint: Endpoint, pool: str | None, where: str) -> Terms:
    from orchestrator.adapters.endpoints.holders import Holding, live_terms, recall_times
    from orchestrator.policy.queueing.from_spec import replicas_of

    lending = cluster.spec.lending
    pools = () if lending is None else lending.pools
    if pool is None and len(pools) != 1:
        said = f"lends of {', '.join(pools)}" if pools else "lends nothing"
        raise UserError(f"the Cluster {said}; one pool is played", where="--pool", code=ExitCode.INVALID,
                        next_step="Name one with --pool." if pools else "Say which pools in its lending.")  # fmt: skip
    chosen = pool or pools[0]
    if chosen not in pools:
        raise UserError(f"the Cluster lends nothing of {chosen!r}", where="--pool", code=ExitCode.UNKNOWN,
                        next_step=did_you_mean(chosen, tuple(pools)) or f"Lent: {', '.join(pools)}")  # fmt: skip
    if endpoint.spec.replicas.rps is None:
        raise UserError("spec.replicas.rps is missing; lending must know what one replica serves", where=where,
                        code=ExitCode.INVALID, next_step="Write the requests a second that you measured.")  # fmt: skip
    shape = replicas_of(endpoint, cluster, submitted_s=0.0)
    most, devices = shape.sizes[-1], shape.devices_per_worker
    holding = Holding(
        job=endpoint.metadata.name,
        endpoint=endpoint,
        pool=chosen,
        held=most * devices,
        most=most,
        devices_per_replica=devices,
        observed=most * devices,
        resource=shape.resource,
    )
    terms = live_terms(cluster, holding, recall_times((), ()))
    if terms is None:
        raise UserError(f"no window of the Cluster's lending opens {chosen!r}", where="--pool", code=ExitCode.INVALID,
                        next_step="Name the pool in one of these windows, or leave out their pools.")  # fmt: skip
    return terms


def _begins_s(text: str | None, terms: Terms) -> float:
    if text is None:
        return dt.datetime.combine(_MONDAY, dt.time(), ZoneInfo(terms.timezone)).timestamp()
    try:
        return parse_instant(text).timestamp()
    except BadValueError as error:
        raise UserError(f"{error.what}; {error.want}", where="--begins", next_step=error.next_step) from None


def _document(terms: Terms, demand: DemandSeries, begins_s: float, played: Rehearsal) -> dict[str, Any]:
    return {
        "demand": demand.name,
        "begins_at": dt.datetime.fromtimestamp(begins_s, ZoneInfo(terms.timezone)).isoformat(),
        "hours": demand.length_s / 3600,
        "missing_points": demand.holes,
        "pool": terms.pool,
        "replicas": terms.replicas,
        "replica_rps": terms.replica_rps,
        "recall_lead_s": terms.times.lead_s,
        "lent_replica_hours": played.lent_replica_s / 3600,
        "lent_share": _share(terms, demand, played),
        "short_s": played.short_s,
        "lendings": played.decisions["Lend"],
        "recalls": played.decisions["Recall"],
        "emergencies": played.decisions["Emergency"],
        "days": [_day(day) for day in played.days],
    }


def _day(day: RehearsedDay) -> dict[str, Any]:
    return {
        "date": day.date.isoformat(),
        "lent_replica_hours": day.lent_replica_s / 3600,
        "fewest_answering": day.fewest_answering,
        "peak_rps": day.peak_rps,
        "short_s": day.short_s,
    }


def _share(terms: Terms, demand: DemandSeries, played: Rehearsal) -> float:
    return played.lent_replica_s / (terms.replicas * demand.length_s)


def _table(terms: Terms, demand: DemandSeries, played: Rehearsal) -> Group:
    rows = [
        [f"{day.date:%a %F}", f"{day.peak_rps:.1f}", str(day.fewest_answering), f"{day.lent_replica_s / 3600:.1f}",
         f"{day.short_s:.0f} s"]
        for day in played.days
    ]  # fmt: skip
    columns = ("DAY", "PEAK RPS", "FEWEST UP", "LENT HOURS", "SHORT")
    table = make_table(columns, rows, right=columns[1:])
    many = played.decisions
    counts = f"{many['Lend']} lendings, {many['Recall']} recalls, {many['Emergency']} in a hurry"
    share = f"{_share(terms, demand, played):.0%} of the time of {terms.replicas} replicas would be lent"
    return Group(table, f"{share}, called back {terms.times.lead_s:.0f} s ahead; {counts}")
