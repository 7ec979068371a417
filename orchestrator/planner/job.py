"""A training job at every world size: time, money, energy and memory, and which sizes a deadline makes cheapest.

Knows the staircase of the batch plan: only sizes that need fewer passes are faster, all others only cost more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.planner.bill import Bill, Rates, bill
from orchestrator.planner.memory import Fit, Memory, Sharding, fit, memory
from orchestrator.planner.model import Model
from orchestrator.planner.network import LINK_EFFICIENCY, Link, Traffic, zero_traffic
from orchestrator.planner.step_time import StepTime, pass_s, step_time
from orchestrator.planner.utilisation import GOODPUT, MFU
from orchestrator.planner.values import Range, as_range, at_least_one, positive
from orchestrator.policy.batch_plan import BatchPlan

LINK = Link(bytes_per_s=100e9 / 8 * LINK_EFFICIENCY, latency_s=10e-6)
"""100 Gbit/s a node at the usual efficiency, where nobody said; an assumption."""
NEARLY = 1.05
"""A range of sizes is as good as its cheapest one within this factor."""
_SHARDING, _RATES = Sharding(), Rates()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is trained and with what. `one_pass_s` is a micro-batch's time on one device (`pass_time`, or measured).

    Without `model`, memory is not estimated and communication counts as hidden; `memory_bytes` None = not known. A
    worker is one rank on one device; what it holds beyond (`devices_per_worker`) is paid for and computes nothing.
    """

    batch: BatchPlan
    steps: int
    one_pass_s: Range
    model: Model | None = None
    sharding: Sharding = _SHARDING
    memory_bytes: float | None = None
    link: Link = LINK
    overlap: float = 1.0
    goodput: Range = GOODPUT
    rates: Rates = _RATES
    devices_per_worker: float = 1.0
    comm_in_pass: bool = False
    """Whether `one_pass_s` holds communication already, as a measured step does."""

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        positive("devices_per_worker", self.devices_per_worker)
        if not 0 <= self.overlap <= 1:
            raise ValueError(f"overlap is {self.overlap}; it must be 0..1")
        if self.goodput.high > 1:
            raise ValueError(f"goodput is {self.goodput.high}; it must be above 0 and at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeEstimate:
    """The job at one world size. `fits` None = not known. `run_s` is elapsed, stalls included."""

    workers: int
    useful: bool
    step: StepTime
    step_s: Range
    run_s: Range
    bill: Bill
    memory: Memory | None
    fits: Fit | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The cheapest size that keeps a deadline, and the range of sizes that cost next to nothing more."""

    workers: int
    min_workers: int
    max_workers: int


def pass_time(
    model: Model, micro_batch_size: int, peak_flops_per_s: float, *, mfu: Range = MFU, recompute: bool = False
) -> Range:
    """Seconds of a micro-batch on one device, from the peak; a high utilisation makes it short."""
    slow, usual, quick = (
        pass_s(model, micro_batch_size, share, peak_flops_per_s, recompute=recompute)
        for share in (mfu.low, mfu.typical, mfu.high)
    )
    return Range(quick, usual, slow)


def estimates(job: Job, min_workers: int, max_workers: int) -> tuple[SizeEstimate, ...]:
    """The job at every size in min..max. Raises: ValueError if min is below 1 or above max."""
    useful = frozenset(job.batch.useful_sizes(min_workers, max_workers))
    return tuple(estimate(job, workers, useful=workers in useful) for workers in range(min_workers, max_workers + 1))


def estimate(job: Job, workers: int, *, useful: bool = True) -> SizeEstimate:
    """The job at one size. The low end takes the best pass and hides all communication that can be, the high end the
    slowest pass and hides none."""
    usual = _step(job, workers, job.one_pass_s.typical, job.overlap)
    step_s = Range(
        _step(job, workers, job.one_pass_s.low, 1.0).total_s,
        usual.total_s,
        _step(job, workers, job.one_pass_s.high, 0.0).total_s,
    )
    run_s = step_s * float(job.steps) / job.goodput
    held = None if job.model is None else _memory(job, job.model, workers)
    return SizeEstimate(
        workers=workers,
        useful=useful,
        step=usual,
        step_s=step_s,
        run_s=run_s,
        bill=bill(run_s * (workers * job.devices_per_worker) / 3600.0, job.rates),
        memory=held,
        fits=None if held is None or job.memory_bytes is None else fit(held, job.memory_bytes),
    )


def _step(job: Job, workers: int, one_pass_s: float, overlap: float) -> StepTime:
    traffic = Traffic()
    if job.model is not None and not job.comm_in_pass:
        stage, width = job.sharding.zero_stage, job.sharding.value_bytes
        traffic = zero_traffic(job.model.num_params, width, stage, layers=job.model.layers)
    return step_time(
        job.batch,
        workers,
        pass_s=one_pass_s,
        traffic=traffic,
        link=job.link,
        overlap=overlap,
        recompute=job.sharding.recompute_activations,
    )


def _memory(job: Job, model: Model, workers: int) -> Memory:
    # A micro-batch holds no more samples than a step.
    size = min(job.batch.micro_batch_size, job.batch.global_batch_size)
    return memory(model, job.sharding, world_size=workers, micro_batch_size=size)


def cheapest(sizes: Sequence[SizeEstimate], *, deadline_s: float | None = None) -> Choice | None:
    """The useful size that typically costs least, fits, and keeps the deadline; None where there is none.

    One that fits tightly is named only where none fits well. Costs are dollars, or device-hours where the price is not
    known. Equal costs: the smaller size.
    """
    if deadline_s is not None:
        positive("deadline_s", deadline_s)
    able = [
        size
        for size in sizes
        if size.useful and size.fits is not Fit.NO and (deadline_s is None or size.run_s.typical <= deadline_s)
    ]
    able = [size for size in able if size.fits is not Fit.TIGHT] or able
    if not able:
        return None
    best = min(able, key=lambda size: (_cost(size), size.workers))
    alike = [size.workers for size in able if _cost(size) <= NEARLY * _cost(best)]
    return Choice(workers=best.workers, min_workers=min(alike), max_workers=max(alike))


def _cost(size: SizeEstimate) -> float:
    return as_range(size.bill.usd or size.bill.device_hours).typical
