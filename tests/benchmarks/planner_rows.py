"""Published runs of `planner-reference/`, and what the planner's accounting makes of each row's own inputs.

Accounting takes what a row states (parameters, tokens, hours, power, PUE) and compares what it states besides. What a
row leaves out is not guessed: it takes no part in that kind then.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.planner.bill import Rates, bill, kwh
from orchestrator.planner.hardware import find_device
from orchestrator.planner.model import FULL_RECOMPUTATION, gpt_params
from orchestrator.planner.scaling import CHINCHILLA, ParametricFit, rule_for
from orchestrator.planner.utilisation import device_hours, training_flops, utilisation
from orchestrator.planner.values import as_range

Row = Mapping[str, str]
MEGATRON_VOCABULARY = 51_200
BARE_MFU = 0.4  # of the baseline: 6ND at one utilisation for all
# Their MFU is of steps; the hours are the job's. PaLM says both, and GLM's and GPT-3's hours hold restarts and more.
_IN_STEP_MFU = ("PaLM-540B", "GPT-3 175B (energy)", "GLM-130B")
_MIXTURES = ("Switch-1.5T (MoE)", "DeepSeek-V3 (37B active)")  # 6ND wants active parameters; Switch's are not given
_PUBLISHED_PRICES = {"DeepSeek-V3 (37B active)": 2.0}  # USD a device-hour, stated beside the cost (2412.19437, table 1)
_ROUNDED = ParametricFit(alpha=0.34, beta=0.28)


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """One published figure beside ours, and beside what a rule of thumb gives. `points`: of 0..1 values, in percent."""

    kind: str
    name: str
    published: float
    ours: float
    baseline: float | None = None
    points: bool = False

    @property
    def size(self) -> float:
        return self._error(self.ours)

    @property
    def of_baseline(self) -> float:
        assert self.baseline is not None
        return self._error(self.baseline)

    def _error(self, value: float) -> float:
        return 100 * abs(value - self.published) if self.points else abs(value / self.published - 1)

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "published": self.published,
            "ours": self.ours,
            "baseline": self.baseline,
            "error": self.size,
        }


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file. Raises: SystemExit where it is missing."""
    if not path.is_file():
        raise SystemExit(f"{path}: there is no such file; see the README beside the data, or name a folder with --data")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def number(row: Row, *names: str) -> bool:
    """Whether the row states all of these."""
    return all(row[name] for name in names)


def params_of(row: Row) -> int:
    """Of a Megatron row, from its shape: the row's own count is rounded."""
    return gpt_params(
        int(row["layers"]), int(row["d_model"]), MEGATRON_VOCABULARY, learned_positions=int(row["seq_len"])
    )


def hours_of(row: Row) -> float | None:
    """Device-hours that the row states: as such, or as days on so many devices."""
    amount, _, unit = row["days_or_gpu_hours"].partition(" ")
    if unit == "gpu_hours":
        return float(amount)
    return float(amount) * 24 * float(row["devices"]) if unit == "days" and row["devices"] else None


def accounting_errors(reference: Sequence[Row], bench: Sequence[Row], hardware: Sequence[Row]) -> Iterator[Error]:
    """Every kind of figure that follows from a row's other figures."""
    yield from map(_mfu_of_bench, bench)
    for row in reference:
        yield from _flops(row)
        yield from _utilisation(row)
        yield from _hours(row)
        yield from _bills(row)
        yield from _chinchilla(row)
    yield from _params_of_bench(bench)
    yield from _hardware(hardware)


def flops_per_token(params: float, row: Row) -> float:
    """6N + 12 L d s."""
    return 6 * params + 12 * float(row["layers"]) * float(row["d_model"]) * float(row["seq_len"])


def _mfu_of_bench(row: Row) -> Error:
    # FP8 rows are stated against the FP8 peak, twice bf16's.
    peak = find_device(row["gpu"]).bf16_flops_per_s * (2 if row["precision"] == "amp_fp8" else 1)
    token = flops_per_token(float(row["params"]), row)
    return Error(
        kind="mfu",
        name=f"{row['gpu']} {row['model']} {row['seq_len']} x{row['gpus']}",
        published=float(row["mfu_pct"]) / 100,
        ours=utilisation(token, float(row["tokens_per_s"]), int(row["gpus"]), peak),
        baseline=utilisation(6 * float(row["params"]), float(row["tokens_per_s"]), int(row["gpus"]), peak),
        points=True,
    )


def _params_of_bench(bench: Sequence[Row]) -> Iterator[Error]:
    for row in bench:
        ours = gpt_params(int(row["layers"]), int(row["d_model"]), 50_368, learned_positions=int(row["seq_len"]))
        yield Error(
            kind="params",
            name=f"{row['model']} {row['seq_len']}",
            published=float(row["params"]),
            ours=ours,
            baseline=12 * float(row["layers"]) * float(row["d_model"]) ** 2,
        )


def _flops(row: Row) -> Iterator[Error]:
    if number(row, "layers", "flops"):
        passes = FULL_RECOMPUTATION if row["model"].startswith("MT-NLG") else 1.0
        tokens = float(row["global_batch"]) * float(row["seq_len"])
        ours = flops_per_token(params_of(row), row) * tokens * passes
        yield Error(kind="flops_of_iteration", name=row["model"], published=float(row["flops"]), ours=ours)
    elif number(row, "params", "tokens", "flops") and row["kind"] in ("flops", "accounting"):
        if row["model"] in _MIXTURES[:1]:
            return
        # An encoder-decoder's token passes one half of its parameters (GPT-3, table D.1).
        half = 0.5 if row["model"].startswith("T5") else 1.0
        ours = half * training_flops(float(row["params"]), float(row["tokens"]))
        kind = "flops" if row["kind"] == "flops" else "flops_of_reports"
        yield Error(kind=kind, name=row["model"], published=float(row["flops"]), ours=ours)


def _utilisation(row: Row) -> Iterator[Error]:
    if row["kind"] == "weak_scaling":
        made = float(row["achieved_tflops"]) * 1e12 / float(row["peak_flops_per_device"])
        yield Error(
            kind="mfu_of_reports", name=row["model"], published=float(row["mfu"]), ours=made / FULL_RECOMPUTATION
        )
    elif number(row, "iteration_s", "mfu"):
        rate = float(row["global_batch"]) * float(row["seq_len"]) / float(row["iteration_s"])
        peak = float(row["peak_flops_per_device"])
        ours = utilisation(flops_per_token(params_of(row), row), rate, int(row["devices"]), peak)
        yield Error(kind="mfu_of_reports", name=row["model"], published=float(row["mfu"]), ours=ours)


def _hours(row: Row) -> Iterator[Error]:
    hours = hours_of(row)
    if hours is None or not number(row, "peak_flops_per_device"):
        return
    peak = float(row["peak_flops_per_device"])
    if row["kind"] in ("strong_scaling", "time_estimate"):
        flops = training_flops(float(row["params"]), float(row["tokens"]))
        made = float(row["achieved_tflops"]) * 1e12 / peak
        ours = device_hours(flops * FULL_RECOMPUTATION, peak, made).typical
        bare = device_hours(flops, peak, BARE_MFU).typical
        yield Error(kind="days", name=row["model"], published=hours, ours=ours, baseline=bare)
    elif number(row, "flops", "mfu"):
        flops = float(row["flops"])
        kind = "device_hours_by_step_mfu" if row["model"] in _IN_STEP_MFU else "device_hours"
        ours = device_hours(flops, peak, float(row["mfu"])).typical
        bare = device_hours(flops, peak, BARE_MFU).typical
        yield Error(kind=kind, name=row["model"], published=hours, ours=ours, baseline=bare)


def _bills(row: Row) -> Iterator[Error]:
    hours = hours_of(row)
    name, watts, pue = row["model"], row["device_power_w"], row["pue"]
    if hours is None:
        return
    if number(row, "device_power_w", "energy_mwh"):
        ours = kwh(hours, float(watts), float(pue or 1)).typical / 1e3
        kind = "energy" if pue else "energy_without_pue"
        yield Error(kind=kind, name=name, published=float(row["energy_mwh"]), ours=ours)
    if number(row, "device_power_w", "kgco2e_per_kwh", "co2e_t"):
        ours = (kwh(hours, float(watts), float(pue or 1)) * float(row["kgco2e_per_kwh"])).typical / 1e3
        kind = "co2e" if pue else "co2e_without_pue"
        yield Error(kind=kind, name=name, published=float(row["co2e_t"]), ours=ours)
    elif number(row, "energy_mwh", "kgco2e_per_kwh", "co2e_t"):
        ours = (as_range(float(row["energy_mwh"])) * float(row["kgco2e_per_kwh"])).typical
        yield Error(kind="co2e_of_energy", name=name, published=float(row["co2e_t"]), ours=ours)
    if number(row, "cost_usd"):
        yield _cost(row, hours)


def _cost(row: Row, hours: float) -> Error:
    device = find_device(row["hardware"])
    price = device.price
    assert price is not None
    given = _PUBLISHED_PRICES.get(row["model"])
    used = price.typical if given is None else given
    found = bill(hours, Rates(usd_per_device_hour=as_range(used))).usd
    assert found is not None
    kind = "cost_by_list_price" if given is None else "cost"
    return Error(kind=kind, name=row["model"], published=float(row["cost_usd"]), ours=found.typical)


def _chinchilla(row: Row) -> Iterator[Error]:
    if row["kind"] != "scaling_law":
        return
    params, approach = float(row["params"]), row["source"][-2]
    table = "chinchilla_table_3" if approach == "1" else f"chinchilla_table_a3_approach_{approach}"
    third = approach == "3"
    ours = CHINCHILLA.optimal_for(params) if third else rule_for(params)
    bare = _ROUNDED.optimal_for(params) if third else None
    for what, published, figure, other in (
        ("tokens", row["tokens"], ours.num_tokens, bare.num_tokens if bare else None),
        ("FLOPs", row["flops"], ours.flops, bare.flops if bare else None),
    ):
        yield Error(kind=table, name=f"{params:.3g} {what}", published=float(published), ours=figure, baseline=other)


def _hardware(hardware: Sequence[Row]) -> Iterator[Error]:
    ours = {
        "bf16_dense_flops": "bf16_flops_per_s",
        "mem_bytes": "memory_bytes",
        "mem_bytes_per_s": "memory_bytes_per_s",
    }
    for row in hardware:
        try:
            device = find_device(row["name"])
        except ValueError:
            continue
        for column, field in ours.items():
            if row[column]:
                value = getattr(device, field)
                yield Error(kind="hardware", name=f"{row['name']} {column}", published=float(row[column]), ours=value)
