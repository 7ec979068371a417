"""From documents to jobs that may be accepted: the checks that `submit`, batches, `--dry-run` and `plan` share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import urlsplit

from orchestrator.adapters.hooks.calling import may_call
from orchestrator.adapters.hooks.signing import read_secret
from orchestrator.adapters.secret_files import SecretError, variables_of
from orchestrator.api.service import Applied, Service
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.experience import Experience
from orchestrator.ledger.submission import Holder, NewJob, experienced, new_holder, new_job
from orchestrator.spec import Study, TrainJob
from orchestrator.spec.errors import ExitCode
from orchestrator.spec.job_parts import Runtime


async def admitted(service: Service, applied: Applied, job: Holder, now_s: float) -> NewJob:
    """A job as the ledger takes it. Raises: LedgerError for one that is refused."""
    new = new_holder(job, applied.cluster, now_s=now_s)
    # What can be said without looking anything up is said first: of most jobs nothing need be known.
    applied.admission.check(new, now_s=now_s)
    if _code_of(job) is not None:
        await service.reading(_require_code, service, job)
    if _runtime(job)[0].secrets:
        await service.reading(_require_secrets, service, job)
    if job.spec.notify:
        await service.reading(_check_hooks, service, applied, job)
    if not _is_to_be_known(new, applied):
        return new
    known = await service.reading(_known, service, [new])
    return _held_to(applied, new, known.get(new.name), now_s)


def all_admitted(service: Service, applied: Applied, jobs: Sequence[TrainJob], now_s: float) -> tuple[NewJob, ...]:
    """Many, on the caller's thread."""
    new = [new_job(job, applied.cluster, now_s=now_s) for job in jobs]
    for one, job in zip(new, jobs, strict=True):
        applied.admission.check(one, now_s=now_s)
        _require_code(service, job)
        _require_secrets(service, job)
        if job.spec.notify:
            _check_hooks(service, applied, job)
    asked = [one for one in new if _is_to_be_known(one, applied)]
    known = _known(service, asked) if asked else {}
    return tuple(_held_to(applied, one, known.get(one.name), now_s) for one in new)


def _runtime(job: Holder) -> tuple[Runtime, str]:
    """What its workers need of code and environment, and where that stands in the document."""
    match job:
        case TrainJob():
            return job.spec.runtime, "spec.runtime"
        case Study():
            return job.spec.template.runtime, "spec.template.runtime"
        case _:
            return Runtime(), ""


def _code_of(job: Holder) -> str | None:
    return _runtime(job)[0].code


def _require_code(service: Service, job: Holder) -> None:
    """The code that a job names is here. Raises: LedgerError (unknown)."""
    code = _code_of(job)
    if code is None or service.code is None or service.code.has(code):
        return
    where = f"job {job.metadata.name}: {_runtime(job)[1]}.working_dir"
    step = "Send it first (PUT /api/v1/code/ID), or submit with 'tide submit', which does"
    raise LedgerError(f"there is no code {code[:12]} here", code=ExitCode.UNKNOWN, where=where, next_step=step)


def _require_secrets(service: Service, job: Holder) -> None:
    """The secrets that a job names can be read. Raises: LedgerError (unknown)."""
    (runtime, place), tenant = _runtime(job), job.metadata.tenant
    if service.secrets is None:
        return
    try:
        variables_of(service.secrets, tenant, runtime.secrets)
    except SecretError as error:
        where = f"job {job.metadata.name}: {place}.secrets"
        step = f"Ask whoever runs the server to put it there: {service.secrets / tenant}/NAME"
        raise LedgerError(str(error), code=ExitCode.UNKNOWN, where=where, next_step=step) from None


def _check_hooks(service: Service, applied: Applied, job: Holder) -> None:
    """Whom it wants to be told may be told, and what that is signed with is there. Raises: LedgerError."""
    hosts, tenant = applied.cluster.spec.notify.hosts, job.metadata.tenant
    for at, hook in enumerate(job.spec.notify):
        where = f"job {job.metadata.name}: spec.notify[{at}]"
        host = urlsplit(hook.url).hostname or ""
        if not may_call(host, hosts):
            problem = f"url: host {host!r} may not be called; {', '.join(hosts)} may"
            step = "Name one of them, or ask an admin to add it to the Cluster's notify.hosts"
            raise LedgerError(problem, code=ExitCode.FORBIDDEN, where=where, next_step=step)
        if hook.secret is not None and service.secrets is not None:
            try:
                read_secret(service.secrets, f"{tenant}/{hook.secret}")
            except SecretError as error:
                step = f"Ask whoever runs the server to put it there: {service.secrets / tenant / hook.secret}"
                raise LedgerError(str(error), code=ExitCode.UNKNOWN, where=where, next_step=step) from None


def _is_to_be_known(new: NewJob, applied: Applied) -> bool:
    """Whether it matters what its steps cost: it asks for a promise, or its tenant's grants are to pay for it."""
    shape = new.shape
    promised = (shape.deadline_s, shape.budget_micro_usd, shape.budget_device_ms)
    # What steps cost is known of training only.
    return shape.kind == "TrainJob" and (
        new.tenant in applied.admission.metered or any(one is not None for one in promised)
    )


def _known(service: Service, jobs: Sequence[NewJob]) -> dict[str, Experience]:
    return service.read.experience({one.name: json.loads(one.document) for one in jobs})


def _held_to(applied: Applied, new: NewJob, known: Experience | None, now_s: float) -> NewJob:
    """A job of which something is known is held to that."""
    if known is None:
        return new
    applied.admission.check(new, now_s=now_s, known=known)
    return experienced(new, known)
