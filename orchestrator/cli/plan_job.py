"""The estimates of `tide plan FILE`: a training job's time, money, energy and memory at every world size."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from orchestrator.cli.plan_figures import elapsed, gib
from orchestrator.cli.plan_options import Asked, exactly, naming
from orchestrator.cli.plan_shown import assumptions_json, choice_json, device_json, size_json
from orchestrator.planner.bill import Rates, rates_of
from orchestrator.planner.hardware import Device
from orchestrator.planner.job import LINK, Choice, Job, SizeEstimate, cheapest, estimates, pass_time
from orchestrator.planner.memory import Fit, Sharding, largest_micro_batch
from orchestrator.planner.model import Model, gpt
from orchestrator.planner.network import Link
from orchestrator.planner.utilisation import GOODPUT, MFU
from orchestrator.planner.values import Range, as_range
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.spec import TrainJob
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.train_job import TrainJobSpec

GPT_TASK = "jobs.models.gpt:task"
_GPT_DEFAULTS = {"layers": 2, "d_model": 64, "seq_len": 64, "mlp_ratio": 4}  # of the task; a test holds them together


def estimated(job: TrainJob, asked: Asked, device: Device | None, link: Link | None = None) -> dict[str, Any]:
    """The estimates as JSON values; `link` is what the pool's Cluster says of it.

    Raises: UserError with exit code 8 where the job fits no device at any of its sizes, cannot keep its deadline even
    at the quick end, or has a budget below one step; with 3 where what is needed is not known.
    """
    spec = job.spec
    model = _model(spec, asked)
    question = _question(spec, asked, device, model, link or LINK)
    sizes = estimates(question, spec.workers.min, spec.workers.max)
    deadline_s = asked.deadline_s or _deadline_s(spec)
    _check_possible(job, question, sizes, deadline_s)
    choice = cheapest(sizes, deadline_s=deadline_s)
    mfu = None if asked.step_s is not None else exactly(asked.mfu, MFU)
    return {
        "device": None if device is None else device_json(device, spec.deepspeed.precision),
        "model": None if model is None else {"params": model.num_params, "flops_per_token": model.flops_per_token},
        "assumptions": assumptions_json(question, mfu=mfu, step_s=asked.step_s),
        "deadline_s": deadline_s,
        "cheapest": None if choice is None else choice_json(choice),
        "largest_micro_batch": _largest(question, spec.workers.max),
        "steps_within_budget": _steps_within(spec, sizes, choice),
        "sizes": [size_json(size) for size in sizes],
    }


def _deadline_s(spec: TrainJobSpec) -> float | None:
    """Seconds from now; a deadline that has passed is for `validate` and `submit` to refuse."""
    if isinstance(spec.deadline, dt.datetime):
        left_s = (spec.deadline - dt.datetime.now(dt.UTC)).total_seconds()
        return left_s if left_s > 0 else None
    return spec.deadline


def _model(spec: TrainJobSpec, asked: Asked) -> Model | None:
    if asked.params is not None:
        if asked.sample_tokens is None:
            what = "is missing; what a sample takes follows from its length"
            raise UserError(what, where="--tokens-per-sample", next_step="Add it beside --params")
        return Model(num_params=int(asked.params), seq_len=int(asked.sample_tokens))
    if spec.task != GPT_TASK:
        return None
    given = {name: spec.args.get(name, default) for name, default in _GPT_DEFAULTS.items()}
    try:
        numbers = {name: int(str(value)) for name, value in given.items()}
        heads = int(str(spec.args.get("heads") or 0))
        return gpt(
            numbers["layers"], numbers["d_model"], numbers["seq_len"], mlp_ratio=numbers["mlp_ratio"], heads=heads
        )
    except ValueError as error:
        raise UserError(str(error), where="spec.args", next_step="Correct the value") from None


def _question(spec: TrainJobSpec, asked: Asked, device: Device | None, model: Model | None, link: Link) -> Job:
    batch = BatchPlan(spec.batch.global_batch_size, spec.batch.micro_batch_size)
    sharding = Sharding(
        zero_stage=spec.deepspeed.zero_stage,  # type: ignore[arg-type]  # 0..3: the spec has checked it
        precision=spec.deepspeed.precision,
        recompute_activations=asked.recompute,
        dropout=spec.task != GPT_TASK or bool(spec.args.get("dropout")),
    )
    with naming("tide plan"):
        return Job(
            batch=batch,
            steps=spec.steps,
            one_pass_s=_pass(batch, spec, asked, device, model),
            model=model,
            sharding=sharding,
            memory_bytes=None if device is None else device.memory_bytes,
            link=link if asked.link_gbps is None else Link(bytes_per_s=asked.link_gbps * 1e9 / 8),
            overlap=1.0 if asked.overlap is None else asked.overlap,
            goodput=exactly(asked.goodput, GOODPUT),
            rates=job_rates(asked, device),
            comm_in_pass=asked.step_s is not None,
            devices_per_worker=spec.workers.resources.GPU or 1.0,
        )


def job_rates(asked: Asked, device: Device | None) -> Rates:
    """What is given by hand, or the device's own figures."""
    if device is not None:
        return rates_of(
            device,
            usd_per_device_hour=asked.usd,
            watts_per_device=asked.watts,
            pue=asked.pue,
            kg_co2e_per_kwh=asked.carbon,
        )
    usual = Rates()
    return Rates(
        usd_per_device_hour=None if asked.usd is None else as_range(asked.usd),
        watts_per_device=None if asked.watts is None else as_range(asked.watts),
        pue=exactly(asked.pue, usual.pue),
        kg_co2e_per_kwh=exactly(asked.carbon, usual.kg_co2e_per_kwh),
    )


def _pass(batch: BatchPlan, spec: TrainJobSpec, asked: Asked, device: Device | None, model: Model | None) -> Range:
    if asked.step_s is not None:
        return as_range(asked.step_s / batch.num_micro_batches)
    if device is None:
        what = "there is nothing to estimate with; it must be --device, --cluster or --step-seconds"
        raise UserError(what, where="tide plan", next_step="Add --device, such as --device h100")
    if model is None:
        what = f"the size of what {spec.task} builds is not known"
        step = "Give --params and --tokens-per-sample, or --step-seconds as it was measured"
        raise UserError(what, where="spec.task", next_step=step)
    return pass_time(
        model,
        min(batch.micro_batch_size, batch.global_batch_size),
        device.peak_flops_per_s(spec.deepspeed.precision),
        mfu=exactly(asked.mfu, MFU),
        recompute=asked.recompute,
    )


def _check_possible(job: TrainJob, question: Job, sizes: Sequence[SizeEstimate], deadline_s: float | None) -> None:
    where, spec = job.metadata.name, job.spec
    if all(size.fits is Fit.NO for size in sizes):
        held, there = sizes[-1].memory, question.memory_bytes
        assert held is not None
        assert there is not None
        most = sizes[-1].workers
        what = f"needs {gib(held.total_bytes)} of memory a device even at {most} workers, and has {gib(there)}"
        raise UserError(what, code=ExitCode.NEVER, where=where, next_step=_way_out(question, most))
    able = [size for size in sizes if size.fits is not Fit.NO]
    quickest = min(size.run_s.low for size in able)
    if deadline_s is not None and quickest > deadline_s:
        what = f"takes {elapsed(quickest)} at the quickest, and its deadline is {elapsed(deadline_s)}"
        step = f"Allow more than {spec.workers.max} workers or more time, or train fewer steps"
        raise UserError(what, code=ExitCode.NEVER, where=where, next_step=step)
    if spec.budget and spec.budget.usd is not None:
        least = min((size.bill.usd.low for size in able if size.bill.usd), default=0.0) / spec.steps
        if least > float(spec.budget.usd):
            what = f"one step costs ${least:.2f} at least, and the budget is ${spec.budget.usd}"
            raise UserError(what, code=ExitCode.NEVER, where=where, next_step="Raise budget.usd")


def _way_out(question: Job, workers: int) -> str:
    largest = _largest(question, workers)
    if largest:
        return f"Set batch.micro_batch_size to {largest} or less"
    if not question.sharding.recompute_activations and question.model and question.model.shape_known:
        return "Try --recompute, deepspeed.zero_stage: 3, or a device with more memory"
    return "Use deepspeed.zero_stage: 3 with more workers, or a device with more memory"


def _largest(question: Job, workers: int) -> int | None:
    if question.model is None or question.memory_bytes is None or not question.model.shape_known:
        return None
    return largest_micro_batch(
        question.model, question.sharding, world_size=workers, memory_bytes=question.memory_bytes
    )


def _steps_within(spec: TrainJobSpec, sizes: Sequence[SizeEstimate], choice: Choice | None) -> int | None:
    """Steps that the job's own budget holds at the chosen size; None where it has none, or no price is known."""
    if spec.budget is None or choice is None:
        return None
    chosen = next(size.bill for size in sizes if size.workers == choice.workers)
    pairs = (
        (spec.budget.usd, chosen.usd),
        (spec.budget.device_hours, chosen.device_hours),
        (spec.budget.kwh, chosen.kwh),
    )
    held = [float(limit) / used.typical * spec.steps for limit, used in pairs if limit is not None and used is not None]
    return int(min(held)) if held else None
