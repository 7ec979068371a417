"""What a merge and fewer bits do to a byte model: bits per byte of two experts, of their merges, and compressed; and of
a small model with a teacher and without.

A base learns Python and C++ by turns; two experts go on from it, each with one of the two. The texts are this Python's
standard library and torch's headers: they are on every machine where this runs, but not the same everywhere.
"""

from __future__ import annotations

import copy
import random
import shutil
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from jobs.data import pack
from jobs.models.load import ModelConfig, load_model, save_model
from jobs.models.task import load_task
from jobs.transform.measure import measure
from jobs.transform.merge import Parent, Recipe, merge
from jobs.transform.prune import prune
from jobs.transform.quantize import quantize
from orchestrator.spec.merge import Method
from tests.benchmarks.harness import say

_SEED = 7
_TASK = "jobs.models.gpt:task"
Args = Mapping[str, Any]
_ARGS: Args = {"layers": 2, "d_model": 64, "heads": 2, "seq_len": 64}
_TEACHER: Args = {"layers": 2, "d_model": 128, "heads": 2, "seq_len": 64}
_SHARES = (0.5, 0.9)
_BATCH = 32
_LR = 2e-3
_MOST_BYTES = 4_000_000
_SAMPLES = 512
_MERGES: dict[str, dict[str, Any]] = {
    "linear 0.5": {"name": "linear"},
    "slerp 0.5": {"name": "slerp", "t": 0.5},
    "task_arithmetic, scale 1": {"name": "task_arithmetic", "scale": 1.0},
    "task_arithmetic, scale 0.5": {"name": "task_arithmetic", "scale": 0.5},
    "ties, density 0.2": {"name": "ties", "density": 0.2},
    "ties, density 0.5": {"name": "ties", "density": 0.5},
    "dare, density 0.5, scale 0.5": {"name": "dare", "density": 0.5, "scale": 0.5},
    "dare, density 0.5, elect_sign": {"name": "dare", "density": 0.5, "elect_sign": True},
}


def quality(*, quick: bool) -> dict[str, Any]:
    """Bits per byte of every model on both texts."""
    torch.manual_seed(_SEED)
    steps = 20 if quick else 200
    with tempfile.TemporaryDirectory(prefix="tide-quality-") as name:
        work = Path(name)
        texts = {"python": _python(work), "c": _packed(work, "c", Path(torch.__file__).parent / "include", "*.h")}
        _train(work / "base", None, list(texts.values()), 2 * steps)
        for text, folder in texts.items():
            _train(work / text, work / "base", [folder], steps)
        rows = {name: _bits(work / name, texts) for name in ("base", *texts)}
        rows |= {f"merge: {name}": _bits(_merged(work, how), texts) for name, how in _MERGES.items()}
        rows |= {name: _bits(folder, texts) for name, folder in _compressed(work)}
    return {"bits_per_byte": rows, "task": _TASK, "args": _ARGS, "steps": {"base": 2 * steps, "expert": steps},
            "batch": _BATCH, "samples": _SAMPLES, "seed": _SEED}  # fmt: skip


def students(*, quick: bool) -> dict[str, Any]:
    """Bits per byte of a student with a teacher and without, after as many steps on the same samples."""
    torch.manual_seed(_SEED)
    steps = 20 if quick else 150
    with tempfile.TemporaryDirectory(prefix="tide-students-") as name:
        work = Path(name)
        text = _python(work)
        _train(work / "teacher", None, [text], steps, args=_TEACHER)
        _train(work / "alone", None, [text], steps)
        for share in _SHARES:
            taught = {**_ARGS, "teacher": str(work / "teacher"), "share": share}
            _train(work / f"share {share}", None, [text], steps, task="jobs.models.distilled:task", args=taught)
        names = ("teacher", "alone", *(f"share {share}" for share in _SHARES))
        rows = {one: _bits(work / one, {"python": text})["python"] for one in names}
    return {"bits_per_byte": rows, "teacher": _TEACHER, "student": _ARGS, "steps": steps, "batch": _BATCH,
            "samples": _SAMPLES, "seed": _SEED}  # fmt: skip


def _python(work: Path) -> Path:
    return _packed(work, "python", Path(sysconfig.get_paths()["stdlib"]), "*.py")


def _packed(work: Path, name: str, source: Path, pattern: str) -> Path:
    """A data set of files drawn from a folder, a few megabytes."""
    files = sorted(source.rglob(pattern))
    random.Random(_SEED).shuffle(files)
    target, total = work / f"text-{name}", 0
    for at, file in enumerate(files):
        if total > _MOST_BYTES or "test" in file.parts:
            continue
        total += file.stat().st_size
        target.mkdir(exist_ok=True)
        shutil.copyfile(file, target / f"{at}{file.suffix}")
    return pack(target, name=name, home=work).folder


def _train(
    out: Path, start: Path | None, texts: Sequence[Path], steps: int, *, task: str = _TASK, args: Args = _ARGS
) -> None:
    made = load_task(task, args)
    torch.manual_seed(_SEED)
    model = copy.deepcopy(load_model(start)[0]) if start else made.build_model()
    model.train()
    sources = [made.open_data(text, "train") for text in texts]
    draw = np.random.default_rng(_SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LR)
    for step in range(steps):
        source = sources[step % len(sources)]
        loss = made.loss(model, source.batch(draw.integers(0, source.num_samples, _BATCH)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 200 == 0:
            say(f"{out.name} step {step}: {made.metrics(float(loss.detach()))['bits_per_byte']:.3f} bits per byte")
    save_model(model.eval(), ModelConfig(task=task, args=args), out)


def _bits(folder: Path, texts: dict[str, Path]) -> dict[str, float]:
    found = {name: measure(folder, text, max_samples=_SAMPLES)["bits_per_byte"] for name, text in texts.items()}
    row = {name: round(value, 4) for name, value in {**found, "worst": max(found.values())}.items()}
    say(f"{folder.name}: {row}")
    return row


def _merged(work: Path, how: dict[str, Any]) -> Path:
    method: Method = TypeAdapter(Method).validate_python(how)
    parents = tuple(Parent(name=name, folder=work / name) for name in ("python", "c"))
    base = None if how["name"] in ("linear", "slerp") else Parent(name="base", folder=work / "base")
    out = work / f"merged-{random.getrandbits(64):x}"
    merge(Recipe(parents=parents, base=base, method=method), out)
    return out


def _compressed(work: Path) -> Iterable[tuple[str, Path]]:
    """The base in fewer bits and with fewer weights."""
    for bits, group in ((8, 32), (4, 32), (4, 64), (4, 128)):
        out = work / f"int{bits}-{group}"
        quantize("base", work / "base", out, bits=bits, group=group)
        yield (f"int{bits}" + (f", group {group}" if bits == 4 else ""), out)
    for sparsity in (0.3, 0.5, 0.7):
        for scope in ("model", "tensor"):
            out = work / f"pruned-{sparsity}-{scope}"
            prune("base", work / "base", out, sparsity=sparsity, per_tensor=scope == "tensor")
            yield f"pruned {sparsity:.0%}, scope {scope}", out
