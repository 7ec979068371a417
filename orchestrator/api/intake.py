"""From documents to jobs that may be accepted: the checks that `submit`, batches, `--dry-run` and `plan` share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import urlsplit

from orchestrator.adapters.hooks.calling import may_call
from orchestrator.adapters.hooks.signing import SecretError, read_secret
from orchestrator.api.service import Applied, Service
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.experience import Experience
from orchestrator.ledger.submission import Holder, NewJob, experienced, new_holder, new_job
from orchestrator.spec import Study, TrainJob
from orchestrator.spec.errors import ExitCode


async def admitted(service: Service, applied: Applied, job: Holder, now_s: float) -> NewJob:
    """A job as the ledger takes it. Raises: LedgerError for one that is refused."""
    new = new_holder(job, applied.cluster, now_s=now_s)
    # What can be said without looking anything up is said first: of most jobs nothing need be known.
    _require_effect(job)
    applied.admission.check(new, now_s=now_s)
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
        _require_effect(job)
        applied.admission.check(one, now_s=now_s)
        if job.spec.notify:
            _check_hooks(service, applied, job)
    asked = [one for one in new if _is_to_be_known(one, applied)]
    known = _known(service, asked) if asked else {}
    return tuple(_held_to(applied, one, known.get(one.name), now_s) for one in new)


def _require_effect(job: Holder) -> None:
    """A key that nobody carries out is refused rather than passed over. Raises: LedgerError."""
    match job:
        case TrainJob():
            runtime, place = job.spec.runtime, "spec.runtime"
        case Study():
            runtime, place = job.spec.template.runtime, "spec.template.runtime"
        case _:
            return
    for key, instead in runtime.without_effect.items():
        where = f"job {job.metadata.name}: {place}.{key}"
        problem = f"nothing carries it out yet; {instead}"
        raise LedgerError(problem, code=ExitCode.INVALID, where=where, next_step="Remove the key")


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
