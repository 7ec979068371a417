"""`tide window`: the windows of a Cluster, when they open next, whether a session fits, and what would be lent."""

from __future__ import annotations

import datetime as dt
import itertools
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.cli.rehearse import rehearse_lending
from orchestrator.policy.queueing.from_spec import windows_of
from orchestrator.policy.queueing.places import OpenHours
from orchestrator.policy.windows import Occurrence, current, next_fit_s, slice_fits, time_left_s, upcoming
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
    items = [_described(hours, now_s) for hours in _windows(file)]
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
    window = _named(file, name).window
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
        str | None, typer.Option("--slice", metavar="DURATION", help="Shortest session that gets anything done.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Say whether a window is open at a time, for how long, and whether a session of --slice fits.

    A closed window is an answer, not an error: exit 0.
    """
    now_s, needed_s = _instant_s(at), _seconds(slice_)
    window = _named(file, name).window
    left_s = time_left_s([window], now_s=now_s)
    fits = left_s > 0 and slice_fits([window], now_s=now_s, min_slice_s=needed_s)
    fit_s = next_fit_s([window], now_s=now_s, min_slice_s=max(needed_s, 1.0))
    zone = ZoneInfo(window.timezone)
    result = {
        "window": name,
        "at": _utc(now_s),
        "open": left_s > 0,
        "left_s": left_s,
        "slice_s": needed_s,
        "fits": fits,
        "next_fit_at": None if fit_s is None else _local(fit_s, zone),
    }
    emit("WindowTest", result, output, table=_sentence(result))


def _sentence(result: dict[str, Any]) -> str:
    state = f"open for {_lasting(result['left_s'])} more" if result["open"] else "closed"
    line = f"{result['window']} is {state} at {result['at']}"
    if result["fits"]:
        return f"{line}; a session of {render_duration(result['slice_s'])} fits" if result["slice_s"] else line
    if result["next_fit_at"] is None:
        return f"{line}; a session of {render_duration(result['slice_s'])} never fits"
    what = f"a session of {render_duration(result['slice_s'])} fits next" if result["slice_s"] else "it opens next"
    return f"{line}; {what} at {result['next_fit_at']}"


def _windows(file: Path) -> tuple[OpenHours, ...]:
    return windows_of(load_one(file, Cluster))


def _named(file: Path, name: str) -> OpenHours:
    windows = {hours.window.name: hours for hours in _windows(file)}
    if name not in windows:
        known = f"Known windows: {', '.join(windows)}" if windows else "The file names none"
        raise UserError(
            f"there is no window {name!r}",
            code=ExitCode.UNKNOWN,
            where=str(file),
            next_step=did_you_mean(name, tuple(windows)) or known,
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
    """Hours and minutes for people; what is odd to the second is rounded down."""
    minutes = int(seconds // 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else render_duration(float(int(seconds)))


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


def _seconds(text: str | None) -> float:
    try:
        return 0.0 if text is None else parse_duration(text, positive=True)
    except BadValueError as error:
        raise _refused("--slice", error) from None


def _refused(option: str, error: BadValueError) -> UserError:
    return UserError(f"{error.what}; {error.want}", where=option, next_step=error.next_step)
