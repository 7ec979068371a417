"""`tide ps`, `describe`, `why`, `logs`, `events`: looking at jobs."""

from __future__ import annotations

import datetime as dt
import sys
from typing import Annotated, Any

import typer

from orchestrator.cli.control.connect import Job, connected
from orchestrator.cli.control.follow import (
    detaching,
    event_line,
    follow_job,
    require_success,
    show_event,
    show_log,
)
from orchestrator.cli.output import Format, Output, emit, make_table

ps_app, describe_app, why_app, logs_app, events_app = (typer.Typer() for _ in range(5))
Json = dict[str, Any]


@ps_app.command()
def ps(
    everything: Annotated[bool, typer.Option("-a", "--all", help="Also jobs that have ended.")] = False,
    queue: Annotated[str | None, typer.Option(help="Only of this queue.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only of this tenant.")] = None,
    state: Annotated[list[str] | None, typer.Option(help="Only in this state; repeat it.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List jobs, and why those that wait do so."""
    states = state
    if not state and not everything:
        states = ["submitted", "queued", "paused", "admitted", "starting", "running", "resizing", "draining"]
    with connected() as client:
        items = list(client.jobs(queue=queue, tenant=tenant, state=states))
        schedules = client.get("/schedules")["items"] if queue is None and not state else []
    schedules = [one for one in schedules if tenant in (None, one["tenant"])]
    rows = [_row(one) for one in items] + [_planned(one) for one in schedules]
    columns = ("JOB", "STATE", "QUEUE", "TENANT", "WORKERS", "STEPS", "AGE", "WHY")
    emit(
        "JobList",
        {"items": items, "schedules": schedules},
        output,
        table=make_table(columns, rows) if rows else "no jobs",
    )


def _row(job: Json) -> list[str]:
    workers = job["workers"]
    asked = f"{workers['min']}..{workers['max']}" if workers["min"] < workers["max"] else str(workers["min"])
    pinned = "" if workers["pinned"] is None else f" (pinned {workers['pinned']})"
    steps = "" if job["steps"] is None else f"{job['steps_done']}/{job['steps']}"
    why = f"{job['reason']}: {job['detail']}" if job["reason"] else job["detail"]
    now = f"{workers['now']} of {asked}{pinned}"
    return [job["id"], job["state"], job["queue"], job["tenant"], now, steps, _age(job["submitted_at"]), why]


def _planned(schedule: Json) -> list[str]:
    when = f"{schedule['cron']} ({schedule['timezone']})"
    following = f", next {schedule['next_at'][:16]}Z" if schedule["next_at"] else ""
    return [schedule["name"], "scheduled", "", schedule["tenant"], "", "", "", f"{when}{following}"]


def _age(since: str) -> str:
    seconds = (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(since)).total_seconds()
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


@describe_app.command()
def describe(job: Job, output: Output = Format.TABLE) -> None:
    """Show everything about a job: its state, every attempt, what it was booked for, what its owner wrote."""
    with connected() as client:
        found = client.job(job)
    emit("Job", found, output, table=_described(found))


def _described(job: Json) -> Any:
    named = ("state", "reason", "detail", "eta", "tenant", "queue", "priority", "submitted_at", "submitted_by")
    facts = [(key.replace("_", " "), job[key]) for key in (*named, "started_at", "ended_at", "deadline")]
    facts += [("workers", _row(job)[4]), ("steps", f"{job['steps_done']} of {job['steps']}")]
    facts += [("failures, preemptions, resizes", f"{job['failures']}, {job['preemptions']}, {job['resizes']}")]
    facts += [("spent", f"{job['spent_usd']} dollars, {job['device_hours']:.3f} device-hours")]
    facts += [("held up by", _slow(one)) for one in job["stragglers"]]
    rows = [(name, value) for name, value in facts if value not in (None, "")]
    rows += [("", "")] if job["attempts"] else []
    rows += [(f"attempt {one['attempt']}", _attempt(one)) for one in job["attempts"]]
    return make_table((job["id"], ""), rows)


def _slow(one: Json) -> str:
    where = f"rank {one['rank']} on node {one['node'][:12]}"
    return f"{where}: {one['ratio']:.1f}x slower than the median over {one['steps']} steps, since {one['since'][:19]}"


def _attempt(one: Json) -> str:
    end = f"{one['outcome']} at {one['ended_at'][:19]}" if one["ended_at"] else "goes on"
    spent = f"useful {one['useful_s']:.0f} s, stalled {one['stalled_s']:.0f} s, lost {one['lost_s']:.0f} s"
    detail = f": {one['detail']}" if one["detail"] else ""
    seats = ", ".join(f"{seat['workers']} on {seat['node']}" for seat in one["placement"][:6])
    more = f" and {len(one['placement']) - 6} more nodes" if len(one["placement"]) > 6 else ""
    return f"{one['cause']}, {one['world_size']} workers ({seats}{more}), {end}; {spent}{detail}"


@why_app.command()
def why(
    job: Job,
    what_if: Annotated[
        list[str] | None,
        typer.Option("--what-if", metavar="KEY=VALUE", help="Try a change: workers.min, priority, queue, window, ..."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Say why a job waits, until when, and which changes would start it in the next cycle."""
    with connected() as client:
        found = client.why(job, what_if or ())
    emit("Why", found, output, table=_because(found, what_if or []))


def _because(found: Json, tried: list[str]) -> str:
    verdict = found["verdict"]
    if verdict is None:
        return f"{found['job']} is {found['state']} and does not wait. {found['detail']}".rstrip()
    lines = [f"{found['job']} is {found['state']}: {_said(verdict)}"]
    if verdict["decision"] != "start":
        lines += ["it would start at once if you:"] if found["unblock"] else ["no single change starts it now"]
        lines += [f"  - {one['text']}" for one in found["unblock"]]
    if found["what_if"] is not None:
        lines += [f"with {', '.join(tried)}: {_said(found['what_if'])}"]
    return "\n".join(lines)


def _said(verdict: Json) -> str:
    if verdict["decision"] == "start":
        return f"it starts in the next cycle with {verdict['detail']}"
    until = f", until {verdict['eta'][:19]}" if verdict["eta"] else ""
    return f"{verdict['reason']}{until}: {verdict['detail']}"


@logs_app.command()
def logs(
    job: Job,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job ends; exit as it ends.")] = False,
    attempt: Annotated[int | None, typer.Option(min=1, help="Only this attempt. Default: the latest; -f: all.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Print what a job's workers said. With -f: exit 0, 100 (failed) or 103 (cancelled); Ctrl-C detaches (130)."""
    path = f"/jobs/{job}/logs"
    with connected() as client:
        if follow:
            client.job(job)
            code = follow_job(client, job, path, show_log, attempt=attempt)
            require_success(client, job, code)
            return
        page = client.get(path, attempt=attempt, limit=2**20)
        text = [page["text"]]
        while page["text"]:
            if output is Format.TABLE:
                sys.stdout.write(text.pop())
            page = client.get(path, attempt=page["attempt"], offset=page["next_offset"], limit=2**20)
            text.append(page["text"])
    if output is not Format.TABLE:
        document = {"job": page["job"], "attempt": page["attempt"], "ended": page["ended"], "text": "".join(text)}
        emit("Logs", document, output, table="")


@events_app.command()
def events(
    job: Annotated[str | None, typer.Argument(help="Only of this job.", show_default=False)] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on; of a job, until it ends.")] = False,
    after: Annotated[int, typer.Option(min=0, help="Only those after this number.")] = 0,
    limit: Annotated[int, typer.Option("-n", min=1, max=1000, help="At most so many, oldest first.")] = 100,
    output: Output = Format.TABLE,
) -> None:
    """Print what happened. With -f on a job: exit 0, 100 or 103 as the job ends; Ctrl-C detaches (130)."""
    with connected() as client:
        if not follow:
            found = client.get("/events", after=after, job=job, limit=limit)
            lines = "\n".join(event_line(one) for one in found["items"])
            emit("EventList", found, output, table=lines or "no events")
        elif job is not None:
            client.job(job)
            code = follow_job(client, job, "/events", show_event(output), job=job, after=after)
            require_success(client, job, code)
        else:
            show = show_event(output)
            with detaching("everything goes on"):
                for one in client.follow("/events", after=after):
                    show(one)
