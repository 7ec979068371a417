"""`tide ps`, `describe`, `why`, `logs`, `events`: looking at jobs."""

from __future__ import annotations

import datetime as dt
import sys
from typing import Annotated, Any

import typer

from orchestrator.cli.control.cluster import amounts
from orchestrator.cli.control.connect import Job, connected, job_names
from orchestrator.cli.control.follow import (
    detaching,
    event_line,
    follow_job,
    require_success,
    show_event,
    show_log,
)
from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.spec.names import require_name

ps_app, describe_app, why_app, logs_app, events_app = (typer.Typer() for _ in range(5))
Json = dict[str, Any]
# A cycle a second is the rule; a slow one takes a few.
_OLD_S = 15.0


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
        schedules = list(client.every("/schedules")) if queue is None and not state else []
    schedules = [one for one in schedules if tenant in (None, one["tenant"])]
    rows = [_row(one) for one in items] + [_planned(one) for one in schedules]
    columns = ("JOB", "STATE", "QUEUE", "TENANT", "WORKERS", "STEPS", "AGE", "ENDS", "WHY")
    emit(
        "JobList",
        {"items": items, "schedules": schedules},
        output,
        table=make_table(columns, rows) if rows else "no jobs" + ("" if everything else "; -a also shows ended ones"),
    )
    if old := _old_reasons(items):
        typer.echo(old, err=True)


def _old_reasons(items: list[Json]) -> str:
    """What is to be said of reasons to wait that are not of now; nothing is the rule."""
    told = [one.get("reason_at") for one in items if one["reason"]]
    since = min((one for one in told if one is not None), default=None)
    if since is not None and _seconds_since(since) > _OLD_S:
        return f"reasons are as of {_age(since)} ago: no control cycle has ended since; see 'tide server status'"
    if told and since is None:
        return "reasons are those written last: the server that answers does not decide, or has only begun to"
    return ""


def _row(job: Json) -> list[str]:
    workers = job["workers"]
    asked = f"{workers['min']}..{workers['max']}" if workers["min"] < workers["max"] else str(workers["min"])
    pinned = "" if workers["pinned"] is None else f" (pinned {workers['pinned']})"
    steps = "" if job["kind"] == "TrainJob" else job["kind"].lower()
    steps = steps if job["steps"] is None else f"{job['steps_done']}/{job['steps']}"
    why = f"{job['reason']}: {job['detail']}" if job["reason"] else job["detail"]
    now = f"{workers['now']} of {asked}{pinned}"
    ends = _in(job["progress"]["finish_at"]) if job["progress"] and job["progress"]["finish_at"] else ""
    return [job["id"], job["state"], job["queue"], job["tenant"], now, steps, _age(job["submitted_at"]), ends, why]


def _planned(schedule: Json) -> list[str]:
    when = f"{schedule['cron']} ({schedule['timezone']})"
    following = f", next {schedule['next_at'][:16]}Z" if schedule["next_at"] else ""
    return [schedule["name"], "scheduled", "", schedule["tenant"], "", "", "", "", f"{when}{following}"]


def _age(since: str) -> str:
    return _spoken(_seconds_since(since))


def _seconds_since(instant: str) -> float:
    return (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(instant)).total_seconds()


def _in(until: str) -> str:
    return f"in {_spoken((dt.datetime.fromisoformat(until) - dt.datetime.now(dt.UTC)).total_seconds())}"


def _spoken(seconds: float) -> str:
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
    serves = job["kind"] == "Endpoint"
    facts += [("replicas" if serves else "workers", _row(job)[4])]
    facts += _serving(job["serving"]) if serves else [("steps", _steps(job))]
    facts += [("failures, preemptions, resizes", f"{job['failures']}, {job['preemptions']}, {job['resizes']}")]
    facts += [("spent", f"{job['spent_usd']} dollars, {job['device_hours']:.3f} device-hours")]
    facts += [("device-hours", _booked(job.get("booked")))]
    facts += [("set aside", _set_aside(job.get("set_aside")))]
    facts += [("held up by", _slow(one)) for one in job["stragglers"]]
    facts += [("used", _used(job["footprint"]))]
    rows = [(name, value) for name, value in facts if value not in (None, "")]
    rows += [("", "")] if job["attempts"] else []
    rows += [(f"attempt {one['attempt']}", _attempt(one)) for one in job["attempts"]]
    rows += [(f"told {one['host']}", _notice(one)) for one in job["notices"]]
    return make_table((job["id"], ""), rows)


def _booked(one: Json | None) -> str | None:
    """What the leases that are over were good for; a server of before says so of attempts only."""
    if one is None or not one["held_device_s"] + one["draining_device_s"]:
        return None
    kinds = ("useful", "stalled", "lost", "draining")
    return ", ".join(f"{kind} {one[f'{kind}_device_s'] / 3600:.3f}" for kind in kinds)


def _set_aside(one: Json | None) -> str | None:
    """What its tenant's grants pay for it with; a server of before does not say."""
    if one is None:
        return None
    worth = "" if one["worth_usd"] is None else f", worth {float(one['worth_usd']):.2f} dollars"
    return f"{amounts({one['unit']: one['amount']})} of what its tenant was granted{worth}"


def _slow(one: Json) -> str:
    where = f"rank {one['rank']} on node {one['node'][:12]}"
    return f"{where}: {one['ratio']:.1f}x slower than the median over {one['steps']} steps, since {one['since'][:19]}"


def _notice(one: Json) -> str:
    when = one["delivered_at"] or one["next_try_at"]
    state = {"waiting": "next try", "delivered": "delivered", "given_up": "given up"}[one["state"]]
    at = f" at {when[:19]}" if when else ""
    said = f": {one['said']}" if one["said"] else ""
    return f"{one['event']}, {state}{at} after {one['tries']} tries{said}"


def _steps(job: Json) -> str:
    known = job["progress"] or {"steps_per_s": None, "finish_at": None}
    speed = "" if known["steps_per_s"] is None else f", {known['steps_per_s']:.3g} a second"
    ends = "" if known["finish_at"] is None else f", done at {known['finish_at'][:19]} if it goes on like this"
    return f"{job['steps_done']} of {job['steps']}{speed}{ends}"


def _used(found: Json | None) -> str | None:
    if found is None:
        return None
    units = (("kwh", ".3f", "kWh"), ("g_co2", ".1f", "g CO2"), ("usd", ".4f", "dollars by the hour"))
    return ", ".join(f"{found[key]:{form}} {unit}" for key, form, unit in units if found[key] is not None)


def _serving(now: Json | None) -> list[tuple[str, Any]]:
    if now is None:
        return []
    places = sorted(set(now["urls"].values()))
    facts = [("answers at", ", ".join(f"{url}/v1" for url in places)), ("model", now["model"])]
    facts += [("answering", f"{now['answering']} replicas")]
    facts += _changing(now)
    lending = now["lending"]
    if lending is None:
        return [*facts, ("lending", "nothing: see replicas.rps and the Cluster's lending")]
    demand = "" if lending["demand_rps"] is None else f"{lending['demand_rps']:.1f} requests/s; "
    coming = f", {lending['returning']} on their way back" if lending["returning"] else ""
    said = f"{demand}{lending['lent']} lent{coming} ({lending['reason']}): {lending['detail']}"
    late = lending.get("recall_lead_detail")
    facts += [("lending", said)]
    return [*facts, ("recall lead", f"{lending['recall_lead_s']:.0f} s: {late}")] if late else facts


def _changing(now: Json) -> list[tuple[str, Any]]:
    """How far its last change has come, and its version on trial; a server of before says neither."""
    rollout, canary = now.get("rollout"), now.get("canary")
    facts = [] if rollout is None else [("last change", f"{rollout['state']}: {rollout['detail']}")]
    if canary is not None:
        gets = f"gets {canary['weight']:g} of the requests"
        back = canary["taken_back"]
        facts += [("canary", f"{canary['model']} " + (gets if back is None else f"was taken back: {back}"))]
    return facts


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
        does = f"{found['job']} is {found['state']} and does not wait. {found['detail']}".rstrip()
        return does if found["effect"] is None else f"{does}\nin the next cycle it {_done_to(found['effect'])}"
    lines = [f"{found['job']} is {found['state']}: {_said(verdict)}"]
    if verdict["decision"] != "start":
        lines += ["it would start at once if you:"] if found["unblock"] else ["no single change starts it now"]
        lines += [f"  - {one['text']}" for one in found["unblock"]]
    if found["what_if"] is not None:
        lines += [f"with {', '.join(tried)}: {_said(found['what_if'])}"]
    return "\n".join(lines)


def _done_to(effect: Json) -> str:
    for_job = f" for {effect['for_job']}" if effect["for_job"] else ""
    what = "is stopped" if effect["action"] == "evict" else f"goes to {effect['workers']} workers"
    return f"{what}{for_job}: {effect['cause']}, {effect['detail']}"


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
    path = f"/jobs/{require_name(job, 'job')}/logs"
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
    job: Annotated[
        str | None, typer.Argument(help="Only of this job.", show_default=False, autocompletion=job_names)
    ] = None,
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
