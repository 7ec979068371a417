"""The inverse question: what a budget buys. Money, device-hours, energy, FLOPs or time in; model, tokens, loss,
devices out.

Refuses to know data: losses are of the scaling law's text, for comparing plans and not for promising a number.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from orchestrator.planner.bill import Bill, Rates, bill, hours_of_kwh
from orchestrator.planner.hardware import Device, Precision
from orchestrator.planner.scaling import CHINCHILLA, Sizes, by_rule, rule_for, serving_aware_within
from orchestrator.planner.utilisation import GOODPUT, MFU, device_hours, flops_of
from orchestrator.planner.values import Range, as_range, at_least_one, not_negative, positive


class Bound(enum.StrEnum):
    """What ends the budget: the limit that allows the fewest FLOPs."""

    USD = "usd"
    DEVICE_HOURS = "device_hours"
    KWH = "kwh"
    FLOPS = "flops"
    DEADLINE = "deadline"
    MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits, each of which may be None. The deadline limits together with `max_devices`.

    Raises: ValueError for a limit that is not positive.
    """

    usd: float | None = None
    device_hours: float | None = None
    kwh: float | None = None
    flops: float | None = None
    deadline_s: float | None = None
    max_devices: int | None = None

    def __post_init__(self) -> None:
        for name in ("usd", "device_hours", "kwh", "flops", "deadline_s"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        if self.max_devices is not None:
            at_least_one("max_devices", self.max_devices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What turns a budget into FLOPs."""

    device: Device
    rates: Rates
    precision: Precision = "bf16"
    mfu: Range = MFU
    goodput: Range = GOODPUT

    @property
    def peak_flops_per_s(self) -> float:
        return self.device.peak_flops_per_s(self.precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the budget buys at the usual utilisation, price and power.

    `flops` is what all of the budget comes to, `bill` what training these sizes does. `ends` are the sizes that the low
    and the high end of `flops` would buy; None where the model was given. `devices` keep the deadline, if there is one.
    """

    bound: Bound
    flops: Range
    bill: Bill
    sizes: Sizes
    ends: tuple[Sizes, Sizes] | None
    by_rule: Sizes
    loss: float
    devices: int | None


def plan(budget: Budget, means: Means, *, num_params: float | None = None, served_tokens: float = 0.0) -> Plan:
    """The sizes of least loss within the budget; with `num_params`, that model on as many tokens as the budget allows.

    With `served_tokens` the same budget also pays for serving them (Sardana et al.). Without any limit but
    `num_params`, the model's own optimum of 20 tokens per parameter is priced.
    Raises: ValueError without any limit; for a limit whose rate (price, power) is not known; for serving that leaves
    nothing to train with.
    """
    bound, flops = _flops(budget, means, num_params)
    served = not_negative("served_tokens", served_tokens)
    sizes = _sizes(flops.typical, num_params, served, rule=bound is Bound.MODEL)
    ends = tuple(serving_aware_within(end, served) for end in (flops.low, flops.high))
    hours = device_hours(sizes.flops, means.peak_flops_per_s, means.mfu, means.goodput)
    return Plan(
        bound=bound,
        flops=flops,
        bill=bill(hours, means.rates),
        sizes=sizes,
        ends=(ends[0], ends[1]) if num_params is None else None,
        by_rule=by_rule(sizes.flops),
        loss=CHINCHILLA.loss(sizes),
        devices=_devices(hours.typical, budget),
    )


def _flops(budget: Budget, means: Means, num_params: float | None) -> tuple[Bound, Range]:
    made = {
        which: flops_of(hours, means.peak_flops_per_s, means.mfu, means.goodput)
        for which, hours in _hours(budget, means)
    }
    if budget.flops is not None:
        made[Bound.FLOPS] = as_range(budget.flops)
    if not made and num_params is not None:
        made[Bound.MODEL] = as_range(rule_for(num_params).flops)
    if not made:
        raise ValueError(
            "there is no limit; it must have dollars, device-hours, kWh, FLOPs, or deadline and max_devices"
        )
    bound = min(made, key=lambda each: made[each].typical)
    return bound, made[bound]


def _hours(budget: Budget, means: Means) -> list[tuple[Bound, Range]]:
    found = []
    if budget.usd is not None:
        if means.rates.usd_per_device_hour is None:
            raise ValueError(f"usd is {budget.usd} and the price of {means.device.name} is not known; give one")
        found.append((Bound.USD, as_range(budget.usd) / means.rates.usd_per_device_hour))
    if budget.device_hours is not None:
        found.append((Bound.DEVICE_HOURS, as_range(budget.device_hours)))
    if budget.kwh is not None:
        if means.rates.watts_per_device is None:
            raise ValueError(f"kwh is {budget.kwh} and the power of {means.device.name} is not known; give one")
        found.append((Bound.KWH, hours_of_kwh(budget.kwh, means.rates.watts_per_device, means.rates.pue)))
    if budget.deadline_s is not None and budget.max_devices is not None:
        found.append((Bound.DEADLINE, as_range(budget.deadline_s / 3600.0 * budget.max_devices)))
    return found


def _sizes(flops: float, num_params: float | None, served_tokens: float, *, rule: bool) -> Sizes:
    if num_params is None:
        return serving_aware_within(flops, served_tokens)
    if rule:
        return rule_for(num_params)
    left = flops - 2.0 * positive("num_params", num_params) * served_tokens
    if left <= 0:
        raise ValueError(
            f"served_tokens is {served_tokens:g}; serving them with {num_params:g} parameters takes all of "
            f"{flops:.3g} FLOPs"
        )
    return Sizes(num_params=num_params, num_tokens=left / (6.0 * num_params))


def _devices(hours: float, budget: Budget) -> int | None:
    if budget.deadline_s is None:
        return None
    return max(1, math.ceil(hours * 3600.0 / budget.deadline_s - 1e-9))
