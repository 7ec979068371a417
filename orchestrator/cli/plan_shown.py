"""How the estimates of a job are told: as JSON values, and as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from orchestrator.cli.output import make_table
from orchestrator.cli.plan_figures import as_json, elapsed, elapsed_spread, ends, gib, rates_line, spread
from orchestrator.planner.hardware import Device, Precision
from orchestrator.planner.job import Choice, Job, SizeEstimate
from orchestrator.planner.memory import Memory
from orchestrator.planner.values import Range

_COLUMNS = ("WORKERS", "STEP", "RUN", "USD", "KWH", "MEMORY", "FITS")


def device_json(device: Device, precision: Precision) -> dict[str, Any]:
    """The device as it is reckoned with."""
    return {
        "name": device.name,
        "peak_flops_per_s": device.bf16_flops_per_s if precision == "bf16" else device.fp32_flops_per_s,
        "memory_bytes": device.memory_bytes,
        "source": device.source,
    }


def assumptions_json(question: Job, *, mfu: Range | None, step_s: float | None) -> dict[str, Any]:
    """What the estimates rest on; `mfu` None where a step was measured."""
    return {
        "mfu": as_json(mfu),
        "step_device_s": step_s,
        "training_goodput": as_json(question.goodput),
        "usd_per_device_hour": as_json(question.rates.usd_per_device_hour),
        "watts_per_device": as_json(question.rates.watts_per_device),
        "pue": as_json(question.rates.pue),
        "kg_co2e_per_kwh": as_json(question.rates.kg_co2e_per_kwh),
        "link_bytes_per_s": question.link.bytes_per_s,
        "overlap": question.overlap,
        "recompute_activations": question.sharding.recompute_activations,
        "lines": _assumption_lines(question, mfu),
    }


def _assumption_lines(question: Job, mfu: Range | None) -> list[str]:
    speed = "a step as measured" if mfu is None else f"MFU {ends(mfu)}"
    network = "" if question.comm_in_pass else f", {question.link.bytes_per_s / 1e9:.3g} GB/s a node"
    return [f"{speed}, goodput {ends(question.goodput)}, {rates_line(question.rates)}{network}"]


def choice_json(choice: Choice) -> dict[str, int]:
    """The cheapest size, and those that are as good."""
    return {"workers": choice.workers, "min_workers": choice.min_workers, "max_workers": choice.max_workers}


def size_json(size: SizeEstimate) -> dict[str, Any]:
    """One world size."""
    return {
        "workers": size.workers,
        "useful": size.useful,
        "passes": size.step.passes,
        "step_s": size.step_s.as_dict(),
        "compute_s": size.step.compute_s,
        "comm_s": size.step.comm_s,
        "exposed_comm_s": size.step.exposed_s,
        "run_s": size.run_s.as_dict(),
        "device_hours": size.bill.device_hours.as_dict(),
        "usd": as_json(size.bill.usd),
        "kwh": as_json(size.bill.kwh),
        "kg_co2e": as_json(size.bill.kg_co2e),
        "memory_bytes": None if size.memory is None else _memory(size.memory),
        "fits": None if size.fits is None else size.fits.value,
    }


def _memory(held: Memory) -> dict[str, float]:
    return {
        "params": held.params_bytes,
        "grads": held.grads_bytes,
        "optimizer": held.optimizer_bytes,
        "gathered": held.gathered_bytes,
        "activations": held.activation_bytes,
        "total": held.total_bytes,
    }


def estimate_table(estimate: Mapping[str, Any], shown: Sequence[int]) -> Table:
    """The estimates of the sizes in `shown`, for people."""
    by_workers = {size["workers"]: size for size in estimate["sizes"]}
    table = make_table(_COLUMNS, [_row(by_workers[workers]) for workers in shown], right=_COLUMNS[:-1])
    table.title = f"On {estimate['device']['name']}" if estimate["device"] else "As one step was measured"
    table.title += ": usual (and from low to high)"
    table.title_justify = table.caption_justify = "left"
    table.caption = "\n".join([*_advice(estimate), f"Assumes {estimate['assumptions']['lines'][0]}."])
    return table


def _advice(estimate: Mapping[str, Any]) -> list[str]:
    within = "" if estimate["deadline_s"] is None else f" within {elapsed(estimate['deadline_s'])}"
    choice = estimate["cheapest"]
    if choice is None:
        return [f"No size is likely to be done{within}; at the quick end some are."]
    low, high = choice["min_workers"], choice["max_workers"]
    alike = f"; {low} to {high} cost at most 5 % more" if low < high else ""
    lines = [f"Cheapest{within}: {choice['workers']} workers{alike}."]
    if estimate["largest_micro_batch"]:
        lines.append(f"Largest micro-batch that fits well: {estimate['largest_micro_batch']:,}.")
    if estimate["steps_within_budget"] is not None:
        lines.append(f"The job's budget holds about {estimate['steps_within_budget']:,} steps at that size.")
    return lines


def _row(size: Mapping[str, Any]) -> list[str]:
    held = size["memory_bytes"]
    return [
        str(size["workers"]),
        elapsed_spread(_range(size["step_s"])),
        elapsed_spread(_range(size["run_s"])),
        spread(_range(size["usd"]) if size["usd"] else None),
        spread(_range(size["kwh"]) if size["kwh"] else None),
        "-" if held is None else gib(held["total"]),
        size["fits"] or "-",
    ]


def _range(values: Mapping[str, float]) -> Range:
    return Range(values["low"], values["typical"], values["high"])
