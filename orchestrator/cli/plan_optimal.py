"""`tide plan --optimal`: the model and the tokens that a budget buys, or what a model of a given size takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.table import Table

from orchestrator.cli.output import make_table
from orchestrator.cli.plan_figures import as_json, counted, elapsed, elapsed_spread, ends, rates_line, spread
from orchestrator.cli.plan_job import job_rates
from orchestrator.cli.plan_options import Asked, check_all, exactly, naming
from orchestrator.planner import values
from orchestrator.planner.budget import Bound, Budget, Means, Plan, plan
from orchestrator.planner.hardware import Device
from orchestrator.planner.inference import decode_step, devices_for
from orchestrator.planner.memory import Sharding, least_world_size
from orchestrator.planner.model import Model
from orchestrator.planner.scaling import Sizes
from orchestrator.planner.utilisation import GOODPUT, MFU
from orchestrator.spec.errors import ExitCode, UserError

_MOST_DEVICES = 100_000
_BOUNDS = {
    Bound.USD: "the dollars",
    Bound.DEVICE_HOURS: "the device-hours",
    Bound.KWH: "the energy",
    Bound.FLOPS: "the FLOPs",
    Bound.DEADLINE: "the deadline, with as many devices as may be used",
    Bound.MODEL: "nothing: 20 tokens per parameter",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The options of the inverse question, checked."""

    usd: float | None = None
    device_hours: float | None = None
    kwh: float | None = None
    flops: float | None = None
    max_devices: int | None = None
    served_tokens: float | None = None

    def __post_init__(self) -> None:
        check_all(
            (
                ("--budget-usd", self.usd, values.positive),
                ("--budget-device-hours", self.device_hours, values.positive),
                ("--budget-kwh", self.kwh, values.positive),
                ("--budget-flops", self.flops, values.positive),
                ("--max-devices", self.max_devices, values.positive),
            )
        )

    @property
    def any_given(self) -> bool:
        """Whether any of them was said."""
        return self != Limits()


def bought(limits: Limits, asked: Asked, device: Device) -> dict[str, Any]:
    """The answer as JSON values.

    Raises: UserError with exit code 8 where the model fits on no number of devices that is allowed, or cannot be served
    and trained within the budget; with 3 where there is no limit, or a rate is missing.
    """
    means = Means(
        device=device,
        rates=job_rates(asked, device),
        mfu=exactly(asked.mfu, MFU),
        goodput=exactly(asked.goodput, GOODPUT),
    )
    budget = Budget(
        usd=limits.usd,
        device_hours=limits.device_hours,
        kwh=limits.kwh,
        flops=limits.flops,
        deadline_s=asked.deadline_s,
        max_devices=limits.max_devices,
    )
    _check_rates(limits, means)
    with naming("tide plan --optimal", "Add --budget-usd, --budget-flops, --params, or --deadline and --max-devices"):
        answer = plan(budget, means, num_params=asked.params, served_tokens=limits.served_tokens or 0.0)
    _check_worth(answer.sizes)
    least = _least_devices(answer.sizes, device, limits)
    return _described(answer, means, limits, asked, least)


def _check_rates(limits: Limits, means: Means) -> None:
    """A budget of dollars needs a price, one of energy a power."""
    name, rates = means.device.name, means.rates
    for given, rate, what, flag in (
        (limits.usd, rates.usd_per_device_hour, "price", "--usd-per-device-hour"),
        (limits.kwh, rates.watts_per_device, "power", "--watts-per-device"),
    ):
        if given is not None and rate is None:
            raise UserError(
                f"is missing; the table has no {what} of {name}, and a budget of {given:g} needs one",
                where=flag,
                next_step="Add it",
            )


def _check_worth(sizes: Sizes) -> None:
    if min(sizes.num_params, sizes.num_tokens) < 1:
        what = f"the budget buys {sizes.num_params:.2g} parameters on {sizes.num_tokens:.2g} tokens"
        raise UserError(
            f"{what}; it must buy one of each",
            code=ExitCode.NEVER,
            where="tide plan --optimal",
            next_step="Raise the budget, or lower --served-tokens",
        )


def _least_devices(sizes: Sizes, device: Device, limits: Limits) -> int:
    """The fewest devices whose memory holds the state with ZeRO 3 and bf16; activations come on top."""
    most = limits.max_devices or _MOST_DEVICES
    model = Model(num_params=max(1, round(sizes.num_params)), seq_len=1)
    sharding = Sharding(zero_stage=3, precision="bf16")
    least = least_world_size(model, sharding, micro_batch_size=1, memory_bytes=device.memory_bytes, most=most)
    if least is None:
        what = f"the state of {counted(sizes.num_params)} parameters does not fit on {most} x {device.name}"
        step = "Raise --max-devices, lower --params, or use a device with more memory"
        raise UserError(
            f"{what}; ZeRO 3 in bf16 takes 16 bytes a parameter",
            code=ExitCode.NEVER,
            where="tide plan --optimal",
            next_step=step,
        )
    return least


def _described(answer: Plan, means: Means, limits: Limits, asked: Asked, least: int) -> dict[str, Any]:
    devices = max(answer.devices or limits.max_devices or 1, least)
    return {
        "device": {
            "name": means.device.name,
            "peak_flops_per_s": means.peak_flops_per_s,
            "memory_bytes": means.device.memory_bytes,
            "source": means.device.source,
        },
        "bound_by": answer.bound.value,
        "served_tokens": limits.served_tokens,
        "flops": answer.flops.as_dict(),
        "optimal": _sizes(answer.sizes) | {"loss": answer.loss},
        "if_low": None if answer.ends is None else _sizes(answer.ends[0]),
        "if_high": None if answer.ends is None else _sizes(answer.ends[1]),
        "rule_20_tokens": _sizes(answer.by_rule),
        "device_hours": answer.bill.device_hours.as_dict(),
        "usd": as_json(answer.bill.usd),
        "kwh": as_json(answer.bill.kwh),
        "kg_co2e": as_json(answer.bill.kg_co2e),
        "deadline_s": asked.deadline_s,
        "devices": {"for_memory": least, "for_deadline": answer.devices},
        "elapsed_s": {
            "devices": devices,
            "range": as_json(answer.bill.device_hours * (3600.0 / devices)),
        },
        "serving": _serving(answer.sizes, means.device),
        "assumptions": {
            "mfu": means.mfu.as_dict(),
            "training_goodput": means.goodput.as_dict(),
            "usd_per_device_hour": as_json(means.rates.usd_per_device_hour),
            "watts_per_device": as_json(means.rates.watts_per_device),
            "pue": means.rates.pue.as_dict(),
            "kg_co2e_per_kwh": means.rates.kg_co2e_per_kwh.as_dict(),
            "lines": [f"MFU {ends(means.mfu)}, goodput {ends(means.goodput)}, {rates_line(means.rates, carbon=True)}"],
        },
    }


def _sizes(sizes: Sizes) -> dict[str, float]:
    return {
        "params": sizes.num_params,
        "tokens": sizes.num_tokens,
        "tokens_per_param": sizes.tokens_per_param,
        "flops": sizes.flops,
    }


def _serving(sizes: Sizes, device: Device) -> dict[str, float] | None:
    if device.memory_bytes_per_s is None:
        return None
    model = Model(num_params=max(1, round(sizes.num_params)), seq_len=1)
    devices = devices_for(model, device)
    return {"devices": devices, "ms_per_token": 1e3 * decode_step(model, device, devices=devices).seconds}


def optimal_table(found: dict[str, Any]) -> Table:
    """The answer for people."""
    best, rule = found["optimal"], found["rule_20_tokens"]
    rows = [
        ["ends by", _BOUNDS[Bound(found["bound_by"])]],
        ["model", f"{_between(found, best, 'params')} parameters"],
        ["tokens", f"{_between(found, best, 'tokens')}, {best['tokens_per_param']:.3g} a parameter"],
        ["loss", f"{best['loss']:.3f} nats a token by the scaling law: for comparing plans, not your data"],
        ["by the rule of 20 tokens", f"{counted(rule['params'])} parameters on {counted(rule['tokens'])} tokens"],
        ["training FLOPs", f"{best['flops']:.3g}"],
        ["device-hours", _spread(found["device_hours"])],
        ["USD", _spread(found["usd"])],
        ["kWh, kg CO2e", f"{_spread(found['kwh'])}, {_spread(found['kg_co2e'])}"],
        ["devices", _devices_text(found)],
        ["elapsed", _elapsed_text(found)],
    ]
    if found["serving"] is not None:
        serving = found["serving"]
        rows.append(["serving, at best", f"{serving['ms_per_token']:.3g} ms a token on {serving['devices']}"])
    table = make_table([found["device"]["name"], "USUAL (AND FROM LOW TO HIGH)"], rows)
    table.caption = f"Assumes {found['assumptions']['lines'][0]}."
    table.caption_justify = "left"
    return table


def _between(found: dict[str, Any], best: dict[str, float], name: str) -> str:
    low, high = found["if_low"], found["if_high"]
    if low is None or high is None or low[name] == high[name]:
        return counted(best[name])
    return f"{counted(best[name])} ({counted(low[name])}-{counted(high[name])})"


def _spread(given: dict[str, float] | None) -> str:
    return spread(None if given is None else values.Range(given["low"], given["typical"], given["high"]))


def _devices_text(found: dict[str, Any]) -> str:
    devices = found["devices"]
    memory = f"{devices['for_memory']} or more hold its state (ZeRO 3, bf16)"
    if devices["for_deadline"] is None:
        return memory
    return f"{devices['for_deadline']} to be done within {elapsed(found['deadline_s'])}; {memory}"


def _elapsed_text(found: dict[str, Any]) -> str:
    given = found["elapsed_s"]["range"]
    devices = found["elapsed_s"]["devices"]
    span = elapsed_spread(values.Range(given["low"], given["typical"], given["high"]))
    return f"{span} on {devices}{'' if devices == 1 else ', if they scale'}"
