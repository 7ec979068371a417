"""What `tide plan` can be told for its estimates: options, as values that were checked."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import typer

from orchestrator.planner import values
from orchestrator.planner.hardware import Device, find_device
from orchestrator.planner.values import Range, as_range
from orchestrator.spec.errors import UserError
from orchestrator.spec.problems import BadValueError
from orchestrator.spec.quantities import parse_duration

_SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_COUNT = re.compile(r"([0-9.]+(?:e[+-]?[0-9]+)?)([kmbt]?)", re.IGNORECASE)


def _number(flag: str, text: str, *, also: str | None = None) -> object:
    return typer.Option(flag, help=text, metavar=also or "NUMBER", show_default=False)


Price = Annotated[float | None, _number("--usd-per-device-hour", "Price of a device for an hour.")]
Watts = Annotated[float | None, _number("--watts-per-device", "Draw of a device under load.")]
StepSeconds = Annotated[float | None, _number("--step-seconds", "Device-seconds of one step, as measured.")]
DeviceName = Annotated[str | None, _number("--device", "Kind of device: adds time, cost, energy, memory.", also="NAME")]
Peak = Annotated[float | None, _number("--peak-tflops", "Its dense peak, instead of the table's.")]
DeviceMemory = Annotated[float | None, _number("--memory-gib", "Its memory, instead of the table's.")]
Mfu = Annotated[float | None, _number("--mfu", "Share of the peak within steps, as 0..1.")]
Goodput = Annotated[float | None, _number("--goodput", "Share of paid time in steps that survive, as 0..1.")]
Pue = Annotated[float | None, _number("--pue", "Energy of the site over that of its machines.")]
Carbon = Annotated[float | None, _number("--kg-co2e-per-kwh", "Carbon intensity of the grid.")]
LinkRate = Annotated[float | None, _number("--link-gbps", "What collectives reach between nodes, in Gbit/s.")]
Overlap = Annotated[float | None, _number("--overlap", "Share of communication that may hide, as 0..1.")]
Recompute = Annotated[bool, typer.Option("--recompute", help="Activations are recomputed: less memory, more time.")]
Params = Annotated[str | None, _number("--params", "Parameters of the model, such as 7B or 1.3e9.", also="N")]
SampleTokens = Annotated[str | None, _number("--tokens-per-sample", "With --params: length of a sample.", also="N")]
Deadline = Annotated[str | None, _number("--deadline", "Elapsed time it may take, such as 8h.", also="DURATION")]
Optimal = Annotated[bool, typer.Option("--optimal", help="Without a file: the model and tokens that a budget buys.")]
BudgetUsd = Annotated[float | None, _number("--budget-usd", "With --optimal: dollars.")]
BudgetHours = Annotated[float | None, _number("--budget-device-hours", "With --optimal: device-hours.")]
BudgetKwh = Annotated[float | None, _number("--budget-kwh", "With --optimal: energy at the site's meter.")]
BudgetFlops = Annotated[float | None, _number("--budget-flops", "With --optimal: training FLOPs.")]
MaxDevices = Annotated[int | None, _number("--max-devices", "With --optimal: devices at once.", also="N")]
ServedTokens = Annotated[str | None, _number("--served-tokens", "With --optimal: tokens it will serve.", also="N")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options above, checked; None where nothing was said. `usd` and `watts` are a device's."""

    device: str | None = None
    peak_tflops: float | None = None
    memory_gib: float | None = None
    mfu: float | None = None
    goodput: float | None = None
    usd: float | None = None
    watts: float | None = None
    pue: float | None = None
    carbon: float | None = None
    link_gbps: float | None = None
    overlap: float | None = None
    recompute: bool = False
    params: float | None = None
    sample_tokens: float | None = None
    deadline_s: float | None = None
    step_s: float | None = None

    def __post_init__(self) -> None:
        checks: tuple[tuple[str, float | None, Callable[[str, float], float]], ...] = (
            ("--peak-tflops", self.peak_tflops, values.positive),
            ("--memory-gib", self.memory_gib, values.positive),
            ("--mfu", self.mfu, values.fraction),
            ("--goodput", self.goodput, values.fraction),
            ("--usd-per-device-hour", self.usd, values.not_negative),
            ("--watts-per-device", self.watts, values.not_negative),
            ("--pue", self.pue, _pue),
            ("--kg-co2e-per-kwh", self.carbon, values.positive),
            ("--link-gbps", self.link_gbps, values.positive),
            ("--overlap", self.overlap, _part),
            ("--step-seconds", self.step_s, values.not_negative),
        )
        check_all(checks)

    @property
    def wants_more_than_rates(self) -> bool:
        """Whether anything was said that is neither a rate nor a step's time: only estimates of a job know it."""
        return self != Asked(usd=self.usd, watts=self.watts, step_s=self.step_s)

    def chosen_device(self, pool_device: str | None = None) -> Device | None:
        """From the table, as it is overridden by hand; None where none was named. Raises: UserError if unknown."""
        name = self.device or pool_device
        if name is None:
            return None
        found = known(name)
        if found is None:
            return self._by_hand(name)
        if self.peak_tflops is not None:
            found = replace(found, bf16_flops_per_s=self.peak_tflops * 1e12, fp32_flops_per_s=self.peak_tflops * 1e12)
        return found if self.memory_gib is None else replace(found, memory_bytes=self.memory_gib * 2**30)

    def _by_hand(self, name: str) -> Device:
        if self.peak_tflops is None or self.memory_gib is None:
            with naming("--device" if self.device else "--cluster"):
                find_device(name)
        peak, memory_gib = self.peak_tflops or 0.0, self.memory_gib or 0.0
        return Device(
            name=name,
            bf16_flops_per_s=peak * 1e12,
            fp32_flops_per_s=peak * 1e12,
            memory_bytes=memory_gib * 2**30,
            memory_bytes_per_s=None,
            tdp_w=None,
        )


def check_all(checks: tuple[tuple[str, float | None, Callable[[str, float], float]], ...]) -> None:
    """Every value that was given passes its check. Raises: UserError for the first that does not."""
    for name, value, check in checks:
        if value is not None:
            try:
                check(name, value)
            except ValueError as error:
                raise UserError(str(error), where="tide plan", next_step="Correct the value") from None


@contextlib.contextmanager
def naming(where: str, next_step: str = "Run 'tide plan --help' for what can be given by hand") -> Iterator[None]:
    """Within it, a value that the planner refuses is the user's, and `where` says which."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error), where=where, next_step=next_step) from None


def count(name: str, text: str | None, *, least: float = 1.0) -> float | None:
    """`7B`, `1.3e9`, `300M` as a number; None stays None. Raises: UserError."""
    if text is None:
        return None
    found = _COUNT.fullmatch(text.strip())
    try:
        value = float(found[1]) * _SUFFIXES[found[2].lower()] if found else float("nan")
    except ValueError:
        value = float("nan")
    if not least <= value < float("inf"):
        what = f"{text!r} is not a count"
        want = f"it must be a finite number of at least {least:g}, such as 7B, 300M or 1.3e9"
        raise UserError(f"{what}; {want}", where=name, next_step="Correct the value")
    return value


def duration(name: str, text: str | None) -> float | None:
    """Seconds of `8h`; None stays None. Raises: UserError."""
    if text is None:
        return None
    try:
        return parse_duration(text, positive=True)
    except BadValueError as error:
        raise UserError(str(error), where=name, next_step="Correct the value") from None


def exactly(value: float | None, default: Range) -> Range:
    """What was said, or the usual range."""
    return default if value is None else as_range(value)


def known(name: str | None) -> Device | None:
    """The device of the table; None where it has none of this name."""
    try:
        return find_device(name or "")
    except ValueError:
        return None


def _part(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; it must be 0..1")
    return value


def _pue(name: str, value: float) -> float:
    if not 1 <= value < float("inf"):
        raise ValueError(f"{name} is {value}; it must be at least 1 and finite")
    return value
