"""INT8 against fp32: bits per byte of a model trained here for a minute, and step times of the 10.7M byte model.

    python -m tests.benchmarks.int8 [--quick]

The text is Python's own standard library; the last tenth of the files is held out. torch's dynamic quantisation, which
takes one scale for all rows of a call, is measured beside ours.
"""

from __future__ import annotations

import copy
import math
import os
import random
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from jobs.models.task import load_task
from serving.engine.int8 import quantize
from serving.engine.protocol import DecodeRow, PrefillChunk, Sampling
from serving.engine.torch_engine import load_engine
from tests.benchmarks.harness import print_result, read_options, say
from tests.benchmarks.serving import SEED, _model

_SMALL = {"layers": 2, "d_model": 128, "heads": 2, "seq_len": 64}
_GREEDY = Sampling(temperature=0.0)


def main() -> None:
    """Train, quantise, compare."""
    options = read_options(__doc__ or "")
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {0})
    model, held_out = _trained(40 if options.quick else 400)
    accuracy = {}
    for name, variant in (("fp32", lambda m: m), ("int8", quantize), ("torch_dynamic", _torch_dynamic)):
        accuracy[name] = _bits_per_byte(variant(copy.deepcopy(model)), held_out)
        say(f"{name}: {accuracy[name]:.4f} bits per byte")
    print_result({"benchmark": "int8", "bits_per_byte": accuracy, "model": _SMALL, "seed": SEED,
                  "step_ms": _step_times(5 if options.quick else 30)}, quick=options.quick)  # fmt: skip


def _trained(steps: int) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(SEED)
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    random.Random(SEED).shuffle(files)
    cut = len(files) * 9 // 10
    text, held_out = (b"".join(file.read_bytes() for file in part) for part in (files[:cut], files[cut:]))
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    model = load_task("jobs.models.gpt:task", _SMALL).build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        at = torch.randint(0, len(data) - 65, (16,))
        rows = torch.stack([data[i : i + 65] for i in at])
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            say(f"step {step}: {float(loss.detach()) / math.log(2):.3f} bits per byte")
    return model.eval(), torch.frombuffer(bytearray(held_out), dtype=torch.uint8).long()


@torch.inference_mode()
def _bits_per_byte(model: nn.Module, data: torch.Tensor) -> float:
    windows = data[: 65 * 512].view(512, 65)
    losses = [
        F.cross_entropy(model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten()).item() for part in windows.split(32)
    ]
    return sum(losses) / len(losses) / math.log(2)


def _torch_dynamic(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized: nn.Module = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    return quantized


def _step_times(repeats: int) -> dict[str, Any]:
    """Milliseconds of decode steps, of a prompt chunk, and of both in one pass."""
    with tempfile.TemporaryDirectory() as work:
        folder = _model(Path(work, "model"))
        return {precision: _times_of(folder, precision, repeats) for precision in ("fp32", "int8")}


def _times_of(folder: Path, precision: str, repeats: int) -> dict[str, float]:
    engine = load_engine(folder, num_slots=33, max_context=256, precision=precision)
    chunk = PrefillChunk(slot=32, tokens=(32,) * 64, start=0, sampling=_GREEDY)
    for slot in range(32):
        engine.prefill(slot, [32] * 64, start=0, sampling=_GREEDY)

    def timed(chunks: list[PrefillChunk], num_rows: int) -> float:
        rows = [DecodeRow(slot=slot, token=32, position=64, sampling=_GREEDY) for slot in range(num_rows)]
        took = []
        for _ in range(repeats):
            start_s = time.perf_counter()
            engine.step(chunks, rows)
            took.append(time.perf_counter() - start_s)
        return round(1000 * median(took), 2)

    found = {f"decode_{count}": timed([], count) for count in (1, 4, 8, 16, 32)}
    found |= {"prefill_64": timed([chunk], 0), "prefill_64_and_decode_16": timed([chunk], 16)}
    say(f"{precision}: {found}")
    return found


if __name__ == "__main__":
    main()
