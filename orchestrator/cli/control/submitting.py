"""Submitting to a server: the decision beforehand, the job, and following it to its end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from orchestrator.cli.control.connect import connected, say
from orchestrator.cli.control.follow import event_line, follow_job, require_success
from orchestrator.cli.output import Format, emit
from orchestrator.client.sse import ServerEvent
from orchestrator.spec import Endpoint, Study, TrainJob
from orchestrator.spec.errors import ExitCode, UserError

Json = dict[str, Any]


def submit_to_server(job: TrainJob | Endpoint | Study, output: Format, *, wait: bool, key: str | None) -> None:
    """Submit, and with `wait` follow. Raises: UserError with the exit code of the job's end."""
    scheduled = isinstance(job, TrainJob) and job.spec.schedule is not None
    if wait and scheduled:
        problem = "a job with a schedule has no end to wait for"
        raise UserError(problem, code=ExitCode.USAGE, where="--wait", next_step="Submit it without --wait")
    with connected(start=True) as client:
        answer = client.submit(_document(job), key=key)
        name = answer["id"]
        again = " (it was submitted before with this key)" if answer["replayed"] else ""
        if not wait:
            line = f"{name} is submitted{again}; 'tide why {name}' and 'tide logs -f {name}' follow it"
            if isinstance(job, Endpoint):
                line = f"{name} is submitted{again}; 'tide describe {name}' says where it answers, once it does"
            if answer.get("revised"):  # a server of before does not say
                line = f"{name} follows this file from now on; 'tide describe {name}' says how far it has come"
            if scheduled:
                line = f"{name} starts by its schedule{again}; 'tide ps' says when, 'tide cancel {name}' ends it"
            emit("SubmittedJob", answer, output, table=line)
            return
        say(f"{name} is submitted{again}; Ctrl-C detaches, the job goes on")
        code = follow_job(client, name, "/events", _progress, job=name)
        require_success(client, name, code)
        found = client.job(name)
    emit("Job", found, output, table=f"{name} has succeeded")


def _progress(event: ServerEvent) -> None:
    if event.kind != "end":
        sys.stderr.write(event_line(json.loads(event.data)) + "\n")


def decision_of(job: TrainJob | Endpoint | Study) -> Json:
    """What the next cycle would decide if the job were submitted now. Changes nothing, so it starts no server."""
    with connected() as client:
        return client.plan(_document(job))


def _document(job: TrainJob | Endpoint | Study) -> Json:
    """What is sent. A folder of code is named by its whole path: the server stands somewhere else."""
    document = job.to_document()
    match job:
        case TrainJob():
            runtime, holds = job.spec.runtime, document["spec"]
        case Study():
            runtime, holds = job.spec.template.runtime, document["spec"]["template"]
        case _:
            return document
    if runtime.working_dir:
        holds["runtime"]["working_dir"] = str(Path(runtime.working_dir).resolve())
    return document


def decision_line(plan: Json) -> str:
    """It, for people."""
    verdict = plan["job"]
    if verdict["decision"] == "start":
        seats = ", ".join(f"{seat['workers']} on {seat['node']}" for seat in verdict["placement"][:8])
        lines = [f"{verdict['job']} would start in the next cycle: {verdict['detail']} ({seats})"]
    else:
        until = f", until {verdict['eta'][:19]}" if verdict["eta"] else ""
        lines = [f"{verdict['job']} would wait: {verdict['reason']}{until}: {verdict['detail']}"]
    for one in plan["changes"]:
        for_job = f" for {one['for_job']}" if one["for_job"] else ""
        what = "would be stopped" if one["action"] == "evict" else f"would go to {one['workers']} workers"
        lines.append(f"{one['job']} {what}{for_job}: {one['cause']}, {one['detail']}")
    return "\n".join(lines)


def show_decision(job: TrainJob | Endpoint | Study, output: Format) -> None:
    """Print it; nothing is submitted."""
    plan = decision_of(job)
    emit("Plan", plan, output, table=decision_line(plan))
