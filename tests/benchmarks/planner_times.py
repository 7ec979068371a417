"""Times that are predicted, not recomputed: iterations of published runs, and steps at another number of devices.

One figure of a system is measured in each case, and never on the row that is predicted:

iteration_time       the share of the peak that matrix products reach; for each row the mean of the other rows of the
                     same publication (Korthikanti et al.: four models on one system; MT-NLG: one model, two sizes)
..._full_recomputation  the same four models with all activations recomputed; the share is the mean of the four rows
                     without, so all of these are predicted. Table 5 of the paper; they are not in the data's folder
step_time_zero3      a device's compute rate and its link, on the 175B runs (384 and 768 devices); predicts 530B
step_time_devices    utilisation at the fewest devices of the same model, sample length and device; predicts all others
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.planner.hardware import find_device
from orchestrator.planner.network import LINK_EFFICIENCY, Link, zero_traffic
from orchestrator.planner.pipeline import Iteration, Layout, iteration
from orchestrator.planner.step_time import step_time
from orchestrator.policy.batch_plan import BatchPlan
from tests.benchmarks.planner_rows import MEGATRON_VOCABULARY, Error, Row, flops_per_token

A100 = find_device("A100-80GB")
# Model -> heads, tensor, pipeline, chunks a stage, micro-batch (Korthikanti et al. 2205.05198, table 3 and section 6;
# Smith et al. 2201.11990, section 2.4). The rows hold all else.
_LAYOUTS = {
    "megatron-22B": (64, 8, 1, 1, 4),
    "gpt3-175B": (96, 8, 8, 3, 1),
    "turing-530B": (128, 8, 35, 3, 1),
    "megatron-1T": (160, 8, 64, 1, 1),
    "MT-NLG-530B": (128, 8, 35, 1, 1),
}
_FULL_RECOMPUTATION_S = {"megatron-22B": 1.42, "gpt3-175B": 18.13, "turing-530B": 49.05, "megatron-1T": 94.42}
_ZERO3_384 = (384, 4, 144e12)  # devices, micro-batch, FLOP/s a device: Narayanan et al., table 2, first row (90 days)
_ZERO3_MICRO_BATCH = {"GPT-174.6B ZeRO-3 @768": 2, "GPT-529.6B ZeRO-3 @640": 4, "GPT-529.6B ZeRO-3 @2240": 1}
_NODE_LINK = {"a100": 1600e9 / 8, "h100": 3200e9 / 8}  # RoCE of the A100 section; 3200 Gbit/s is assumed for H100


def time_errors(reference: Sequence[Row], bench: Sequence[Row]) -> Iterator[Error]:
    """Every kind of predicted time."""
    yield from _iterations(reference)
    yield from _fully_recomputed(reference)
    yield from _zero3(reference)
    yield from _devices(bench)


def calibration(reference: Sequence[Row]) -> dict[str, Any]:
    """What was measured, on which rows."""
    rate, link = _zero3_measured(reference)
    efficiency = {row["model"]: _parts(row).matmul_efficiency(float(row["iteration_s"])) for row in _timed(reference)}
    return {
        "matmul_efficiency": efficiency,
        "matmul_efficiency_is": "each row's own; a row is predicted with the mean of the others of its publication",
        "zero3_flops_per_s": rate,
        "zero3_link_bytes_per_s": link.bytes_per_s,
        "zero3_is": "of the 175B runs on 384 and 768 devices; the 530B runs are predicted",
    }


def _timed(reference: Sequence[Row]) -> list[Row]:
    return [row for row in reference if row["iteration_s"]]


def _layout(row: Row) -> Layout:
    heads, tensor, pipeline, chunks, micro_batch = _LAYOUTS[row["model"].split()[0]]
    return Layout(
        layers=int(row["layers"]),
        d_model=int(row["d_model"]),
        heads=heads,
        seq_len=int(row["seq_len"]),
        vocabulary=MEGATRON_VOCABULARY,
        tensor=tensor,
        pipeline=pipeline,
        data=int(row["devices"]) // (tensor * pipeline),
        global_batch_size=int(row["global_batch"]),
        micro_batch_size=micro_batch,
        interleaved=chunks,
        full_recomputation=row["model"].startswith("MT-NLG"),
    )


def _parts(row: Row) -> Iteration:
    return iteration(_layout(row), A100)


def _utilised(row: Row) -> float:
    """Model FLOPs over peak x time: what the baseline carries from one row to another."""
    return float(row["mfu"])


def _iterations(reference: Sequence[Row]) -> Iterator[Error]:
    timed = _timed(reference)
    for row in timed:
        others = [other for other in timed if other["source"] == row["source"] and other is not row]
        efficiency = statistics.fmean(_parts(other).matmul_efficiency(float(other["iteration_s"])) for other in others)
        bare = statistics.fmean(_utilised(other) for other in others)
        yield Error(
            kind="iteration_time",
            name=row["model"],
            published=float(row["iteration_s"]),
            ours=_parts(row).seconds(efficiency),
            baseline=float(row["iteration_s"]) * _utilised(row) / bare,
        )


def _fully_recomputed(reference: Sequence[Row]) -> Iterator[Error]:
    rows = {row["model"].split()[0]: row for row in _timed(reference)}
    efficiency = statistics.fmean(
        _parts(rows[name]).matmul_efficiency(float(rows[name]["iteration_s"])) for name in _FULL_RECOMPUTATION_S
    )
    for name, published in _FULL_RECOMPUTATION_S.items():
        run = replace(_layout(rows[name]), full_recomputation=True)
        yield Error(
            kind="iteration_time_full_recomputation",
            name=name,
            published=published,
            ours=iteration(run, A100).seconds(efficiency),
            baseline=float(rows[name]["iteration_s"]) * 4 / 3,
        )


def _zero3_flops(row: Row) -> float:
    """Of one step, recomputation included: 8 N a token."""
    return 8 * float(row["params"]) * float(row["global_batch"]) * float(row["seq_len"])


def _zero3_measured(reference: Sequence[Row]) -> tuple[float, Link]:
    """On 384 devices compute hides the link, on 768 the link hides compute: one gives the rate, the other the link."""
    row = next(row for row in reference if row["model"] == "GPT-174.6B ZeRO-3 @768")
    devices, _, rate = _ZERO3_384
    step_s = _zero3_flops(row) / (float(row["achieved_tflops"]) * 1e12 * 768)
    moved = zero_traffic(float(row["params"]), 2, 3).per_pass_bytes * 767 / 768
    assert _zero3_flops(row) / (rate * devices) > step_s > _zero3_flops(row) / (rate * 768)
    return rate, Link(bytes_per_s=moved / step_s)


def _zero3(reference: Sequence[Row]) -> Iterator[Error]:
    rate, link = _zero3_measured(reference)
    for row in reference:
        if not row["model"].startswith("GPT-529.6B ZeRO-3"):
            continue
        devices, flops = int(row["devices"]), _zero3_flops(row)
        batch = BatchPlan(int(row["global_batch"]), _ZERO3_MICRO_BATCH[row["model"]])
        found = step_time(
            batch,
            devices,
            pass_s=flops / batch.num_micro_batches / rate,
            traffic=zero_traffic(float(row["params"]), 2, 3),
            link=link,
            recompute=True,
        )
        yield Error(
            kind="step_time_zero3",
            name=row["model"],
            published=flops / (float(row["achieved_tflops"]) * 1e12 * devices),
            ours=found.total_s,
            baseline=flops / (rate * devices),
        )


def _devices(bench: Sequence[Row]) -> Iterator[Error]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in bench:
        key = tuple(row[name] for name in ("gpu", "model", "seq_len", "precision", "act_ckpt"))
        groups.setdefault(key, []).append(row)
    for rows in groups.values():
        least = min(rows, key=lambda row: int(row["gpus"]))
        for row in rows:
            if int(row["gpus"]) > int(least["gpus"]):
                yield _at_more_devices(row, least)


def _at_more_devices(row: Row, least: Row) -> Error:
    """A step at `row`'s devices, a device's rate taken from the run on the fewest."""
    devices, length = int(row["gpus"]), int(row["seq_len"])
    batch = BatchPlan(int(row["global_batch"]), int(row["micro_batch"]))
    token_s = int(least["gpus"]) / float(least["tokens_per_s"])
    stage = 3 if row["sharding"] == "FULL_SHARD" else 2
    found = step_time(
        batch,
        devices,
        pass_s=token_s * length * int(row["micro_batch"]),
        traffic=zero_traffic(float(row["params"]), 2, stage, layers=int(row["layers"])),
        link=Link(bytes_per_s=_NODE_LINK[row["gpu"][:4]] * LINK_EFFICIENCY, latency_s=5e-6),
        recompute=row["act_ckpt"] == "True",
    )
    published = float(row["global_batch"]) * length / float(row["tokens_per_s"])
    peak = find_device(row["gpu"]).bf16_flops_per_s
    token = flops_per_token(float(row["params"]), row)
    return Error(
        kind="step_time_devices",
        name=f"{row['gpu']} {row['model']} {length} x{least['gpus']} -> x{devices}",
        published=published,
        ours=found.total_s,
        baseline=float(row["global_batch"]) * length * token / (0.4 * peak * devices),
    )
