"""How long does a rank group of another size wait for its state? Ours, `ds_to_universal` + load, and bare reading.

`python -m tests.benchmarks.reshard [--quick] [--state-gib 2] [--sizes 4:6] [--stages 1,2,3] [--workdir DIR]
[--without-universal] [--fresh-memory]`

Real DeepSpeed engines (CPU, gloo, fp32), forked ranks. Times are from a barrier before to a barrier after, engines
built beforehand; `universal` is conversion (as many workers as cores) plus `load_checkpoint`; `read` is what the M
ranks need to read the parts' bytes into fresh memory, an equal share each, and to do nothing with them. With ZeRO 1 and
2 every rank also gets all weights: `read_needed` is what reading those as well takes, a third of the state a rank.
Cold means that the kernel was told to drop the files first. What the two ways loaded is compared bit for bit, by hash.
Free memory is filled with page cache before each measurement (`resident.py`; `--fresh-memory` leaves it as it is). The
last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import deepspeed
import numpy as np
import torch
import xxhash
from deepspeed.checkpoint import ds_to_universal
from torch import nn

from jobs.train.state import (
    FileStorage,
    Part,
    PartLayout,
    commit,
    copy_part_into,
    describe_state,
    hash_blocks,
    load_into,
    part_file,
    read_manifest,
    write_part,
)
from jobs.train.state.deepspeed_shards import view_of
from tests.benchmarks.harness import print_result, read_options, say
from tests.benchmarks.resident import PageCacheFiller
from tests.train.state.deepspeed_ranks import run_ranks

MOMENTS = ("exp_avg", "exp_avg_sq")
WIDTH = 2048
STEP = 100


class Stack(nn.Module):
    """Square matrices and vectors, `layers` of each: as many parameters as the state is to have."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(layers))


def build_engine(stage: int, layers: int, world_size: int, *, universal: bool = False) -> Any:
    """An engine that never trains: its moments are made, not computed."""
    model = Stack(layers)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": world_size,
        "zero_optimization": {"stage": stage},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
        "checkpoint": {"load_universal": universal},
    }
    return deepspeed.initialize(
        model=model, model_parameters=model.parameters(), config=config, dist_init_required=False
    )[0]


def save(folder: Path, stage: int, layers: int, rank: int, world_size: int) -> None:
    """The same random state saved by us and by DeepSpeed; times our save and our snapshot into memory."""
    engine = build_engine(stage, layers, world_size)
    view = view_of(engine, moments=MOMENTS)
    generator = torch.Generator().manual_seed(rank)
    for piece in view.owned:
        piece.tensor.uniform_(-1, 1, generator=generator)
    view.set_scalars({"step": STEP})
    view.publish()
    storage, layout = FileStorage(folder / "ours"), PartLayout.of(view)
    file = part_file("run", STEP, 0, rank, world_size)
    part, save_s = _timed(lambda: write_part(layout, storage, rank=rank, file=file))
    buffer = memoryview(bytearray(layout.nbytes))
    copy_part_into(layout, buffer)  # touches the pages, as a keeper's segment has been
    _, copy_s = _timed(lambda: copy_part_into(layout, buffer))
    _, hash_s = _timed(lambda: hash_blocks(buffer))
    parts: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(parts, part.to_json())
    if rank == 0:
        described = [Part.from_json(one) for one in parts]
        task = {"task": "tests:stack", "args": {}}
        commit(
            storage,
            describe_state(
                view, run="run", step=STEP, attempt=0, task=task, dataset_hash="d", replicated={}, parts=described
            ),
        )
    _write(folder, "save", rank, {"save_s": save_s, "copy_s": copy_s, "hash_s": hash_s, "nbytes": layout.nbytes})
    client = {"universal_checkpoint_info": {}}
    engine.save_checkpoint(str(folder / "theirs"), tag="native", client_state=client)


def load_ours(folder: Path, stage: int, layers: int, name: str, rank: int, world_size: int) -> None:
    engine = build_engine(stage, layers, world_size)

    def load() -> Any:
        storage = FileStorage(folder / "ours")
        manifest = read_manifest(storage, "run", STEP)
        return load_into(view_of(engine, moments=manifest.moments), manifest, storage)

    report, seconds = _timed(load)
    counts = {"needed_bytes": report.needed_bytes, "read_bytes": report.read_bytes}
    _write(folder, name, rank, {"seconds": seconds, **counts, "hash": _hash(engine)})


def load_universal(folder: Path, stage: int, layers: int, name: str, rank: int, world_size: int) -> None:
    engine = build_engine(stage, layers, world_size, universal=True)
    _, seconds = _timed(lambda: engine.load_checkpoint(str(folder / "theirs"), tag="universal"))
    _write(folder, name, rank, {"seconds": seconds, "hash": _hash(engine)})


def read_only(folder: Path, weights_too: bool, name: str, rank: int, world_size: int) -> None:
    """Every rank reads an equal share of all bytes, with nothing but read(); with `weights_too` also as many bytes as
    all fp32 weights have, which are a third of each file."""
    shares = []
    for path in sorted((folder / "ours").rglob("*.safetensors")):
        size = path.stat().st_size
        shares.append((path, rank * size // world_size, (rank + 1) * size // world_size))
        if weights_too:
            shares.append((path, 0, size // (1 + len(MOMENTS))))

    def read() -> None:
        for path, start, stop in shares:
            target = memoryview(np.empty(stop - start, np.uint8))
            with path.open("rb", buffering=0) as file:
                file.seek(start)
                while len(target):
                    target = target[file.readinto(target) :]

    _, seconds = _timed(read)
    _write(folder, name, rank, {"seconds": seconds})


def convert(folder: Path, rank: int, world_size: int) -> None:
    workers = os.cpu_count() or 1
    ds_to_universal.main(
        argparse.Namespace(
            input_folder=str(folder / "theirs" / "native"),
            output_folder=str(folder / "theirs" / "universal"),
            num_extract_workers=workers,
            num_merge_workers=workers,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
    )


def _timed(work: Any) -> tuple[Any, float]:
    torch.distributed.barrier()
    started_s = time.perf_counter()
    result = work()
    torch.distributed.barrier()
    return result, time.perf_counter() - started_s


def _hash(engine: Any) -> str:
    """Of this rank's master weights and moments, however they came."""
    digest = xxhash.xxh3_64()
    for piece in view_of(engine).owned:
        digest.update(piece.tensor.numpy())
    return digest.hexdigest()


def _write(folder: Path, name: str, rank: int, values: dict[str, Any]) -> None:
    (folder / f"{name}-{rank}.json").write_text(json.dumps(values))


def _read(folder: Path, name: str, world_size: int) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(world_size)]


def _drop_cache(folder: Path) -> None:
    os.sync()
    for path in (p for p in folder.rglob("*") if p.is_file()):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measure(
    folder: Path, stage: int, layers: int, n: int, m: int, *, universal: bool, filler: PageCacheFiller | None
) -> dict[str, Any]:
    """One stage and pair of sizes; every figure in seconds unless its name says otherwise."""
    run_ranks(n, save, folder, stage, layers)
    saved = _read(folder, "save", n)
    state_bytes = sum(one["nbytes"] for one in saved)
    row: dict[str, Any] = {"zero_stage": stage, "from": n, "to": m, "state_bytes": state_bytes}
    hashes = {}
    for temperature in ("cold", "warm"):
        reshard = {}
        works: list[tuple[str, Any, tuple[Any, ...]]] = [
            ("read", read_only, (False,)),
            ("ours", load_ours, (stage, layers)),
        ]
        if stage < 3:
            works.append(("read_needed", read_only, (True,)))
        for name, work, arguments in works:
            if filler:
                filler.fill()
            if temperature == "cold":
                _drop_cache(folder / "ours")
            run_ranks(m, work, folder, *arguments, name)
            reshard[name] = max(one["seconds"] for one in _read(folder, name, m))
        row[temperature] = {"reshard_s": reshard}
        if not universal:
            continue
        shutil.rmtree(folder / "theirs" / "universal", ignore_errors=True)
        if temperature == "cold":
            _drop_cache(folder / "theirs")
        if filler:
            filler.fill()
        started_s = time.perf_counter()
        run_ranks(1, convert, folder)
        converted_s = time.perf_counter() - started_s
        run_ranks(m, load_universal, folder, stage, layers, "universal")
        reshard["universal"] = converted_s + max(one["seconds"] for one in _read(folder, "universal", m))
        hashes = {name: [one["hash"] for one in _read(folder, name, m)] for name in ("ours", "universal")}
        row[temperature]["convert_s"] = converted_s
    assert not universal or hashes["ours"] == hashes["universal"], "the two ways loaded different state"
    ours = _read(folder, "ours", m)
    warm = row["warm"]["reshard_s"]
    return row | {
        "read_bytes_per_rank": [one["read_bytes"] for one in ours],
        "needed_bytes_per_rank": [one["needed_bytes"] for one in ours],
        "gb_per_s_per_rank": max(one["needed_bytes"] for one in ours) / warm["ours"] / 1e9,
        "times_faster_than_universal": warm["universal"] / warm["ours"] if universal else None,
        "times_the_reading": warm["ours"] / warm["read"],
        "times_reading_what_is_needed": warm["ours"] / warm.get("read_needed", warm["read"]),
        "save_gb_per_s": state_bytes / max(one["save_s"] for one in saved) / 1e9,
        "copy_gb_per_s_per_rank": saved[0]["nbytes"] / max(one["copy_s"] for one in saved) / 1e9,
        "hash_gb_per_s_per_rank": saved[0]["nbytes"] / max(one["hash_s"] for one in saved) / 1e9,
    }


def main() -> None:
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--state-gib", type=float, default=2.0)
    extra.add_argument("--sizes", default="4:6", help="N:M[,N:M...]")
    extra.add_argument("--stages", default="1,2,3")
    extra.add_argument("--without-universal", action="store_true", help="ours and reading only; no oracle then")
    extra.add_argument("--fresh-memory", action="store_true")
    extra.add_argument("--workdir", type=Path, default=None, help="on the disk to measure")
    options = read_options(__doc__, extra=extra)
    state_bytes = (0.125 if options.quick else options.rest.state_gib) * 2**30
    layers = max(1, round(state_bytes / 12 / (WIDTH * WIDTH + WIDTH)))
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # a compiler run of a minute
    rows, universal = [], not options.rest.without_universal
    filler = None if options.quick or options.rest.fresh_memory else PageCacheFiller()
    for stage, pair in itertools.product(options.rest.stages.split(","), options.rest.sizes.split(",")):
        n, m = map(int, pair.split(":"))
        with tempfile.TemporaryDirectory(prefix="reshard-", dir=options.rest.workdir) as folder:
            rows.append(measure(Path(folder), int(stage), layers, n, m, universal=universal, filler=filler))
        say(json.dumps(rows[-1], indent=1))
    parameters = layers * (WIDTH * WIDTH + WIDTH)
    result = {"benchmark": "reshard", "parameters": parameters, "reshard_s": rows[0]["warm"]["reshard_s"], "rows": rows}
    print_result(result, quick=options.quick)


if __name__ == "__main__":
    main()
