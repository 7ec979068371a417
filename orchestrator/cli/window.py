"""`tide window`: the windows of a Cluster, when they open next, whether a session fits, and what would be lent."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.cli.rehearse import rehearse_lending
from orchestrator.policy.lending.session import UNSEEN, NotStarted, SessionPlan, plan_session
from orchestrator.policy.queueing.from_spec import windows_of
from orchestrator.policy.queueing.places import OpenHours
from orchestrator.policy.windows import Occurrence, Window, current, next_fit_s, time_left_s, upcoming
from orchestrator.spec import Cluster, load_one
from orchestrator.spec.cluster_rules import EVERY_DAY
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.fields import did_you_mean
from orchestrator.spec.problems import BadValueError
from orchestrator.spec.quantities import parse_duration, render_duration
from orchestrator.spec.times import parse_instant

app = typer.Typer(no_args_is_help=True)
app.command("rehearse")(rehearse_lending)

_MAX_SHOWN = 366
File = Annotated[Path, typer.Argument(metavar="FILE", help="A YAML file with one Cluster.", show_default=False)]
WindowName = Annotated[str, typer.Argument(metavar="NAME", help="Name of a window.", show_default=False)]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="TIME", help="ISO 8601 with offset; default now.", show_default=False),
]


@app.command("list")
def list_windows(file: File, at: At = None, output: Output = Format.TABLE) -> None:
    """List the windows, which of them are open, and when each opens or closes next."""
    now_s = _instant_s(at)
    items = [_described(hours, now_s) for hours in windows_of(load_one(file, Cluster))]
    columns = ("NAME", "HOURS", "ZONE", "DAYS", "POOLS", "NOW", "UNTIL")
    table = make_table(columns, [_row(item) for item in items])
    emit("WindowList", {"at": _utc(now_s), "items": items}, output, table=table if items else f"{file} has no windows")


@app.command("next")
def next_windows(
    file: File,
    name: WindowName,
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=_MAX_SHOWN, help="How many.")] = 5,
    at: At = None,
    output: Output = Format.TABLE,
) -> None:
    """Print the next times a window opens, and how long it stays open: clock changes make nights longer or shorter."""
    now_s = _instant_s(at)
    window = _named(file, windows_of(load_one(file, Cluster)), name).window
    zone = ZoneInfo(window.timezone)
    items = [_occurrence(found, zone) for found in itertools.islice(upcoming(window, now_s=now_s), count)]
    rows = [(item["opens_at"], item["closes_at"], _lasting(item["length_s"])) for item in items]
    table = make_table(("OPENS", "CLOSES", "LENGTH"), rows, right=("LENGTH",))
    emit("WindowOpenings", {"window": name, "at": _utc(now_s), "items": items}, output, table=table)


@app.command("test")
def try_window(
    file: File,
    name: WindowName,
    at: At = None,
    slice_: Annotated[
        str | None,
        typer.Option(
            "--slice", metavar="DURATION", help="Least training that is worth a start; default lending.min_slice."
        ),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Say whether a window is open at a time, for how long, and whether a session fits: --slice of training, and saving
    its state and letting go, as a job of which no night was seen yet is given time for it.

    A closed window is an answer, not an error: exit 0.
    """
    now_s, cluster = _instant_s(at), load_one(file, Cluster)
    hours = _named(file, windows_of(cluster), name)
    least_s = cluster.spec.lending.min_slice if cluster.spec.lending else 0.0
    result = _session([hours.window], now_s, least_s if slice_ is None else _seconds(slice_))
    said = _sentence(result, _local(now_s, ZoneInfo(hours.window.timezone)))
    emit("WindowTest", {"window": name, **result}, output, table=f"{name} is {said}")


def _session(windows: Sequence[Window], now_s: float, slice_s: float) -> dict[str, Any]:
    """A session from now on, as `policy.lending.session` plans it."""
    left_s, zone = time_left_s(windows, now_s=now_s), ZoneInfo(windows[0].timezone)
    plan = plan_session(UNSEEN.ending(registers=True), begins_s=now_s, until_s=now_s + left_s, min_slice_s=slice_s)
    course = plan if isinstance(plan, SessionPlan) else None
    fit_s = next_fit_s(windows, now_s=now_s, min_slice_s=plan.needed_s) if isinstance(plan, NotStarted) else now_s
    return {
        "at": _utc(now_s),
        "open": left_s > 0,
        "left_s": left_s,
        "slice_s": slice_s,
        "fits": course is not None,
        "trains_until": None if course is None else _local(course.train_until_s, zone),
        "deferred": [] if course is None else list(course.deferred),
        "next_fit_at": None if fit_s is None else _local(fit_s, zone),
    }


def _sentence(result: dict[str, Any], at: str) -> str:
    state = f"open for {_lasting(result['left_s'])} more" if result["open"] else "closed"
    line = f"{state} at {at}"
    what = f"a session with {render_duration(result['slice_s'])} of training" if result["slice_s"] else "a session"
    if result["fits"]:
        until = f"{line}; {what} fits: it trains until {result['trains_until']}"
        last = "evaluation and registration wait for another night" if result["deferred"] else ""
        return f"{until}, and {last or 'is evaluated and registered by the close'}"
    if result["next_fit_at"] is None:
        return f"{line}; {what} never fits"
    return f"{line}; {what} fits next at {result['next_fit_at']}"


def _named(file: Path, known: Sequence[OpenHours], name: str) -> OpenHours:
    windows = {hours.window.name: hours for hours in known}
    if name not in windows:
        others = f"Known windows: {', '.join(windows)}" if windows else "The file names none"
        raise UserError(
            f"there is no window {name!r}",
            code=ExitCode.UNKNOWN,
            where=str(file),
            next_step=did_you_mean(name, tuple(windows)) or others,
        )
    return windows[name]


def _described(hours: OpenHours, now_s: float) -> dict[str, Any]:
    window = hours.window
    zone = ZoneInfo(window.timezone)
    held, following = current(window, now_s=now_s), next(upcoming(window, now_s=now_s), None)
    left_s = time_left_s([window], now_s=now_s)
    return {
        "name": window.name,
        "opens": window.opens.strftime("%H:%M"),
        "closes": window.closes.strftime("%H:%M"),
        "timezone": window.timezone,
        "days": [day for at, day in enumerate(EVERY_DAY) if at in window.days],
        "pools": sorted(hours.pools),
        "grace_s": hours.grace_s,
        "open": held is not None,
        "left_s": left_s,
        "closes_at": None if held is None else _local(now_s + left_s, zone),
        "next_opens_at": None if following is None else _local(following.opens_at_s, zone),
    }


def _row(item: dict[str, Any]) -> list[str]:
    return [
        item["name"],
        f"{item['opens']}-{item['closes']}",
        item["timezone"],
        "every day" if len(item["days"]) == len(EVERY_DAY) else ",".join(item["days"]),
        ",".join(item["pools"]) or "all",
        "open" if item["open"] else "closed",
        _short(item["closes_at"] if item["open"] else item["next_opens_at"]),
    ]


def _short(at: str | None) -> str:
    """To the minute; the zone stands in its own column."""
    return "never" if at is None else at[:16].replace("T", " ")


def _lasting(seconds: float) -> str:
    """Hours and minutes for people, or minutes and seconds; what is odd is rounded down."""
    minutes = int(seconds // 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    odd_s = int(seconds) % 60
    return f"{minutes}m{odd_s:02d}s" if minutes and odd_s else render_duration(float(int(seconds)))


def _occurrence(found: Occurrence, zone: ZoneInfo) -> dict[str, Any]:
    return {
        "opens_at": _local(found.opens_at_s, zone),
        "closes_at": _local(found.closes_at_s, zone),
        "length_s": found.length_s,
    }


def _local(instant_s: float, zone: ZoneInfo) -> str:
    return dt.datetime.fromtimestamp(instant_s, zone).isoformat()


def _utc(instant_s: float) -> str:
    return dt.datetime.fromtimestamp(instant_s, dt.UTC).isoformat()


def _instant_s(text: str | None) -> float:
    if text is None:
        return float(int(dt.datetime.now(dt.UTC).timestamp()))
    try:
        return parse_instant(text).timestamp()
    except BadValueError as error:
        raise _refused("--at", error) from None


def _seconds(text: str) -> float:
    try:
        return parse_duration(text, positive=True)
    except BadValueError as error:
        raise _refused("--slice", error) from None


def _refused(option: str, error: BadValueError) -> UserError:
    return UserError(f"{error.what}; {error.want}", where=option, next_step=error.next_step)
