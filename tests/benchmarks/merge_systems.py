"""One merge by one system, in a process of its own: SYSTEM HOW(json) OUT; prints seconds, CPU seconds and the peak.

Run as a file, by an interpreter that may have no Tideline: what is not mergekit's is imported where it is used.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 2**18  # the fastest here: with pieces of 1 MiB and more, writing takes six times as long


def main(system: str, how: dict[str, Any], out: Path) -> None:
    """Import, then measure."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    work = {"ours": _ours, "torch": _torch, "copy": _copy, "mergekit": _mergekit}[system](how, out)
    before = _resident_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    work()
    took = {"seconds": time.perf_counter() - start_s, "cpu_seconds": time.process_time() - start_cpu_s}
    print(json.dumps({**took, "peak_mib": _resident_mib("VmHWM") - before}))


def _ours(how: dict[str, Any], out: Path) -> Callable[[], object]:
    from pydantic import TypeAdapter

    from jobs.transform.merge import Parent, Recipe, merge
    from orchestrator.spec.merge import Method

    parents = zip(how["models"], how["weights"], strict=True)
    recipe = Recipe(
        parents=tuple(Parent(name=folder, folder=Path(folder), weight=weight) for folder, weight in parents),
        base=Parent(name="base", folder=Path(how["base"])) if how["base"] else None,
        method=TypeAdapter(Method).validate_python(how["method"]),
    )
    return lambda: merge(recipe, out)


def _torch(how: dict[str, Any], out: Path) -> Callable[[], object]:
    """The obvious way: everything is loaded."""
    from safetensors.torch import load_file, save_file

    def work() -> None:
        models = [load_file(Path(folder, "model.safetensors")) for folder in how["models"]]
        base = load_file(Path(how["base"], "model.safetensors")) if how["base"] else None
        total = 1.0 if base else sum(how["weights"])
        merged = {}
        for name in models[0]:
            parts = [model[name].float() - base[name].float() if base else model[name].float() for model in models]
            mixed = sum(weight / total * part for weight, part in zip(how["weights"], parts, strict=True))
            merged[name] = base[name].float() + mixed if base else mixed
        out.mkdir()
        save_file(merged, out / "model.safetensors")

    return work


def _copy(how: dict[str, Any], out: Path) -> Callable[[], object]:
    """All parents are read; the first one's bytes are written, too."""

    def work() -> None:
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        out.mkdir()
        with open(out / "model.safetensors", "wb", buffering=0) as written:
            for at, folder in enumerate([*how["models"], *([how["base"]] if how["base"] else [])]):
                with open(Path(folder, "model.safetensors"), "rb", buffering=0) as read:
                    while count := read.readinto(buffer):
                        if not at:
                            written.write(buffer[:count])

    return work


def _mergekit(how: dict[str, Any], out: Path) -> Callable[[], object]:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    if how["method"]["name"] == "slerp":
        models, base = [{"model": folder} for folder in how["models"]], how["models"][0]
    else:
        models = [
            {"model": folder, "parameters": {"weight": weight}}
            for folder, weight in zip(how["models"], how["weights"], strict=True)
        ]
        base = how["base"]
    named = {"base_model": base} if base else {}
    config = MergeConfiguration.model_validate({"models": models, "dtype": "float32", **named, **how["mergekit"]})
    options = MergeOptions(copy_tokenizer=False, write_model_card=False)
    return lambda: run_merge(config, str(out), options=options)


def _resident_mib(which: str) -> float:
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]))
