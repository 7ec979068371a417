"""Submitting to a server: the decision beforehand, the job, and following it to its end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from orchestrator.cli.control.connect import connected, say
from orchestrator.cli.control.follow import event_line, follow_job, require_success
from orchestrator.cli.output import Format, emit
from orchestrator.client.client import Client
from orchestrator.client.sse import ServerEvent
from orchestrator.spec import Endpoint, Study, TrainJob
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.job_parts import CODE_PREFIX

Json = dict[str, Any]


def submit_to_server(job: TrainJob | Endpoint | Study, output: Format, *, wait: bool, key: str | None) -> None:
    """Submit, and with `wait` follow. Raises: UserError with the exit code of the job's end."""
    scheduled = isinstance(job, TrainJob) and job.spec.schedule is not None
    if wait and scheduled:
        problem = "a job with a schedule has no end to wait for"
        raise UserError(problem, code=ExitCode.USAGE, where="--wait", next_step="Submit it without --wait")
    with connected(start=True) as client:
        answer = client.submit(_with_code(_document(job), client), key=key)
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


def _with_code(document: Json, client: Client) -> Json:
    """The document with its folder of code sent along and named by what it holds: whatever becomes of the folder, the
    job runs these files. Raises: UserError for a folder that cannot be sent."""
    runtime = _runtime(document)
    named = runtime.get("working_dir")
    if named is None or named.startswith(CODE_PREFIX):
        return document
    from jobs.code.bundle import pack  # here: few jobs bring code
    from jobs.code.listing import code_id, list_code

    folder = Path(named)
    files = list_code(folder)
    code = code_id(folder, files)
    if not client.has_code(code):
        client.send_code(code, pack(folder, files))
    size = sum(file.num_bytes for file in files) / 2**20
    count = "1 file" if len(files) == 1 else f"{len(files):,} files"
    say(f"the code in {folder} goes with it as {CODE_PREFIX}{code[:12]} ({count}, {size:.1f} MiB)")
    runtime["working_dir"] = CODE_PREFIX + code
    return document


def _document(job: TrainJob | Endpoint | Study) -> Json:
    """What is asked about. A folder of code is named by its whole path: the server stands somewhere else."""
    document = job.to_document()
    runtime = _runtime(document)
    named = runtime.get("working_dir")
    if named is not None and not named.startswith(CODE_PREFIX):
        runtime["working_dir"] = str(Path(named).resolve())
    return document


def _runtime(document: Json) -> Json:
    """The part of a document that names its code; empty where none can be named."""
    spec = document["spec"]
    holder: Json = spec.get("template", spec)
    found: Json = holder.get("runtime", {})
    return found


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
