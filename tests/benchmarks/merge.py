"""Merging against mergekit and against copying the same bytes; what merging and compressing do to a model's quality.

    python -m tests.benchmarks.merge [--quick] [--parts speed quality students] [--mergekit PYTHON] [--repeats 3]
        [--methods linear slerp task_arithmetic ties]

PYTHON is an interpreter of an environment with mergekit (its pins clash with ours); without it that column is empty,
and the obvious way in torch (load all, add, save) stands beside ours alone. Every run is a process of its own; its
clock starts after the imports. All read from a warm page cache and none waits for the disk. `copy` reads all parents
and writes as many bytes as the result has. Peaks are of resident memory, above what the process had before it began.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.benchmarks.harness import print_result, read_options, say
from tests.benchmarks.merge_quality import quality, students

_PARTS = ("speed", "quality", "students")
_SEED = 7
_WEIGHTS = (0.6, 0.4)
_METHODS: dict[str, dict[str, Any]] = {
    "linear": {"name": "linear"},
    "slerp": {"name": "slerp", "t": 0.4},
    "task_arithmetic": {"name": "task_arithmetic"},
    "ties": {"name": "ties", "density": 0.2},
}
_HAS_BASE = ("task_arithmetic", "ties")
# What mergekit is told so that it computes the same formula.
_MERGEKIT: dict[str, dict[str, Any]] = {
    "linear": {"parameters": {"normalize": True}},
    "slerp": {"parameters": {"t": 0.4}},
    "task_arithmetic": {"parameters": {"normalize": False, "lambda": 1.0}},
    "ties": {"parameters": {"normalize": True, "density": 0.2, "lambda": 1.0}},
}
_SYSTEMS = Path(__file__).with_name("merge_systems.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A Llama's dimensions: a layout of tensors that mergekit knows."""

    width: int
    layers: int
    hidden: int
    vocabulary: int


_FULL = Size(width=768, layers=12, hidden=2048, vocabulary=32_000)  # 134M parameters, 0.54 GB in fp32
_QUICK = Size(width=128, layers=2, hidden=256, vocabulary=1000)


def main() -> None:
    """Measure the parts that are asked for."""
    options = read_options(__doc__ or "", extra=_arguments())
    result: dict[str, Any] = {"benchmark": "merge"}
    if "speed" in options.rest.parts:
        repeats = 1 if options.quick else options.rest.repeats
        result |= _speed(options.rest.methods, options.rest.mergekit, repeats, quick=options.quick)
    if "quality" in options.rest.parts:
        result["quality"] = quality(quick=options.quick)
    if "students" in options.rest.parts:
        result["students"] = students(quick=options.quick)
    print_result(result, quick=options.quick)


def _arguments() -> argparse.ArgumentParser:
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS)
    extra.add_argument("--methods", nargs="+", choices=tuple(_METHODS), default=tuple(_METHODS))
    extra.add_argument("--mergekit", metavar="PYTHON", help="an interpreter that imports mergekit")
    extra.add_argument("--repeats", type=int, default=3)
    return extra


def _speed(names: Sequence[str], mergekit: str | None, repeats: int, *, quick: bool) -> dict[str, Any]:
    """The first method's figures, and those of all."""
    size = _QUICK if quick else _FULL
    with tempfile.TemporaryDirectory(prefix="tide-merge-") as work:
        folders = {name: _model(Path(work, name), size, seed) for seed, name in enumerate(("base", "a", "b"))}
        num_bytes = sum(path.stat().st_size for path in Path(work).rglob("*.safetensors"))
        methods = {name: _compare(name, folders, Path(work), mergekit, repeats) for name in names}
    first = methods[names[0]]
    return {
        "seconds": first["seconds"],
        "peak_mib": first["peak_mib"]["ours"],
        "max_abs_diff": first["max_abs_diff"],
        "methods": methods,
        "model": {"parameters": num_bytes // 12, "bytes": num_bytes // 3, "models": 3, "dtype": "fp32"},
        "repeats": repeats,
        "seed": _SEED,
        "mergekit": _version(mergekit),
        "threads": torch.get_num_threads(),
    }


def _model(folder: Path, size: Size, seed: int) -> Path:
    """A Llama of random weights: a base, and models that have moved a little from it."""
    folder.mkdir()
    base, moved = torch.Generator().manual_seed(_SEED), torch.Generator().manual_seed(_SEED + 1 + seed)
    weights = {}
    for name, shape in _shapes(size).items():
        weights[name] = torch.randn(shape, generator=base).mul_(0.02)
        if seed:
            weights[name] += torch.randn(shape, generator=moved).mul_(0.002)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": size.width,
        "intermediate_size": size.hidden, "num_hidden_layers": size.layers, "num_attention_heads": size.width // 64,
        "num_key_value_heads": size.width // 64, "vocab_size": size.vocabulary, "torch_dtype": "float32",
        "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "max_position_embeddings": 1024, "hidden_act": "silu",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _shapes(size: Size) -> dict[str, tuple[int, ...]]:
    width, hidden = size.width, size.hidden
    of_layer = {
        **{f"self_attn.{which}_proj.weight": (width, width) for which in "qkvo"},
        "mlp.gate_proj.weight": (hidden, width),
        "mlp.up_proj.weight": (hidden, width),
        "mlp.down_proj.weight": (width, hidden),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
    }
    ends = {"embed_tokens.weight": (size.vocabulary, width), "norm.weight": (width,)}
    layers = {f"layers.{at}.{name}": shape for at in range(size.layers) for name, shape in of_layer.items()}
    return {"lm_head.weight": (size.vocabulary, width)} | {f"model.{k}": v for k, v in (ends | layers).items()}


def _compare(name: str, folders: Mapping[str, Path], work: Path, mergekit: str | None, repeats: int) -> dict[str, Any]:
    """Every system by turns; medians, and how far the results are from ours and ours from float64."""
    how = {
        "method": _METHODS[name],
        "mergekit": {"merge_method": name, **_MERGEKIT[name]},
        "models": [str(folders["a"]), str(folders["b"])],
        "base": str(folders["base"]) if name in _HAS_BASE else None,
        "weights": _WEIGHTS,
    }
    systems = {"ours": sys.executable, "torch": sys.executable, "copy": sys.executable}
    if name not in ("linear", "task_arithmetic"):
        del systems["torch"]
    if mergekit:
        systems["mergekit"] = mergekit
    found: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
    for repeat in range(repeats):
        for system, python in systems.items():
            out = work / f"{name}-{system}-{repeat}"
            found[system].append(_run(python, system, how, out))
            say(f"{name} {system}: {found[system][-1]}")
    last = repeats - 1
    result = {
        "seconds": {system: median(one["seconds"] for one in runs) for system, runs in found.items()},
        "cpu_seconds": {system: median(one["cpu_seconds"] for one in runs) for system, runs in found.items()},
        "peak_mib": {system: median(one["peak_mib"] for one in runs) for system, runs in found.items()},
        "range_s": {system: _range([one["seconds"] for one in runs]) for system, runs in found.items()},
        "max_abs_diff": {},
    }
    ours = work / f"{name}-ours-{last}"
    for system in set(systems) & {"torch", "mergekit"}:
        result["max_abs_diff"][system] = _difference(ours, work / f"{name}-{system}-{last}")
    if name == "linear":
        result["max_abs_diff"]["float64"] = _off_float64(ours, folders)
    if not mergekit:
        result["seconds"]["mergekit"] = None
    return result


def _run(python: str, system: str, how: Mapping[str, Any], out: Path) -> dict[str, float]:
    done = subprocess.run([python, str(_SYSTEMS), system, json.dumps(how), str(out)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{system} failed: {done.stderr[-2000:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _range(values: list[float]) -> list[float]:
    return [min(values), max(values)]


def _difference(one: Path, other: Path) -> float:
    """The largest difference between two results."""
    worst = 0.0
    with safe_open(one / "model.safetensors", framework="pt") as ours:
        files = [safe_open(file, framework="pt") for file in sorted(other.glob("*.safetensors"))]
        theirs = {name: file for file in files for name in file.keys()}  # noqa: SIM118
        for name in ours.keys():  # noqa: SIM118
            gap = ours.get_tensor(name).double() - theirs[name].get_tensor(name).double()
            worst = max(worst, float(gap.abs().max()))
    return worst


def _off_float64(ours: Path, folders: Mapping[str, Path]) -> float:
    worst = 0.0
    with (
        safe_open(ours / "model.safetensors", framework="pt") as found,
        safe_open(folders["a"] / "model.safetensors", framework="pt") as a,
        safe_open(folders["b"] / "model.safetensors", framework="pt") as b,
    ):
        for name in found.keys():  # noqa: SIM118
            wanted = _WEIGHTS[0] * a.get_tensor(name).double() + _WEIGHTS[1] * b.get_tensor(name).double()
            worst = max(worst, float((found.get_tensor(name).double() - wanted).abs().max()))
    return worst


def _version(mergekit: str | None) -> str | None:
    if not mergekit:
        return None
    ask = "import importlib.metadata as m; print(m.version('mergekit'), 'transformers', m.version('transformers'))"
    return subprocess.run([mergekit, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
