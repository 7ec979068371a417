"""Real DeepSpeed groups of forked ranks, and the oracle: what `ds_to_universal` plus load makes of the same state.

Run as a program (`python -m tests.train.state.deepspeed_ranks FOLDER CASE...`), because a group is forked from a
process that has imported DeepSpeed and started no thread. A case is STAGE[>STAGE]:PRECISION:N:M[,M...][:small]; small
makes a parameter group that most ranks own nothing of, which DeepSpeed's universal loader cannot (IndexError): no
oracle then. Prints one JSON object per target size: the tensors that differ, which must be none.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from torch import nn

from jobs.train.state import (
    FileStorage,
    Part,
    PartLayout,
    commit,
    describe_state,
    load_into,
    part_file,
    read_manifest,
    write_part,
)
from jobs.train.state.adopt import adopt
from jobs.train.state.deepspeed_shards import view_of
from jobs.train.state.native import read_native
from jobs.train.state.universal import export_universal

MOMENTS = ("exp_avg", "exp_avg_sq")
STEPS = 3


@dataclass(frozen=True)
class Case:
    saved_stage: int
    stage: int
    precision: str
    small: bool

    @property
    def has_oracle(self) -> bool:
        return self.saved_stage == self.stage > 0 and not self.small


class Odd(nn.Module):
    """Odd shapes, one parameter smaller than most groups, a tied name, a frozen layer, buffers of both kinds."""

    def __init__(self, small: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 7)
        self.frozen = nn.Linear(7, 5)
        self.frozen.requires_grad_(False)
        self.back = nn.Linear(5, 7, bias=False)
        self.scale = nn.Parameter(torch.ones(1 if small else 46))
        self.head = nn.Linear(7, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("seen", torch.zeros(3, dtype=torch.int64))
        self.register_buffer("table", torch.arange(7.0), persistent=False)

    def forward(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        x_BLD = self.embed(tokens_BL)
        x_BLD = x_BLD + self.back(torch.tanh(self.frozen(x_BLD))) * self.scale.mean()
        logits_BLV = self.head(x_BLD)
        return nn.functional.cross_entropy(logits_BLV[:, :-1].flatten(0, 1).float(), tokens_BL[:, 1:].flatten())


def build_engine(case: Case, world_size: int, *, stage: int | None = None, universal: bool = False):
    torch.manual_seed(5)
    model = Odd(case.small)
    model.seen += 4
    matrices = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": world_size,
        "zero_optimization": {
            "stage": case.stage if stage is None else stage,
            "stage3_param_persistence_threshold": 10,
        },
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 1.0,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "weight_decay": 0.1, "torch_adam": True}},
        "checkpoint": {"load_universal": universal},
        "steps_per_print": 10**9,
    }
    if case.precision == "bf16":
        config["bf16"] = {"enabled": True}
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return deepspeed.initialize(model=model, model_parameters=groups, config=config, dist_init_required=False)[0]


def train(engine, first: int, steps: int) -> None:
    """The same batch on every rank, so the trained weights do not depend on how many there are."""
    for step in range(first, first + steps):
        tokens_BL = torch.randint(0, 11, (2, 6), generator=torch.Generator().manual_seed(step))
        engine.backward(engine(tokens_BL))
        engine.step()


def gathered(engine) -> dict[str, torch.Tensor]:
    """The full state through DeepSpeed's public accessors, and the weights the model computes with."""
    found = {}
    if engine.zero_optimization_stage() in (1, 2):
        # DeepSpeed links moments to parameters after the first group's first step, when later groups have none yet.
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    for name, param in engine.module.named_parameters():
        if param.requires_grad and engine.zero_optimization_stage():
            found[f"fp32/{name}"] = safe_get_full_fp32_param(param).clone()
            for moment in MOMENTS:
                found[f"{moment}/{name}"] = safe_get_full_optimizer_state(param, moment).clone()
        elif param.requires_grad:
            found[f"fp32/{name}"] = param.detach().float().clone()
            for moment in MOMENTS if param in engine.optimizer.state else ():
                found[f"{moment}/{name}"] = engine.optimizer.state[param][moment].clone()
        with deepspeed.zero.GatheredParameters([param], enabled=hasattr(param, "ds_id")):
            found[f"model/{name}"] = param.detach().clone()
    return found | {"buffer/seen": engine.module.seen.clone()}


def save_all(folder: Path, case: Case, rank: int, world_size: int) -> None:
    """Train, then save the same state three ways: ours, DeepSpeed's, and gathered as the truth."""
    engine = build_engine(case, world_size, stage=case.saved_stage)
    train(engine, 0, STEPS)
    engine.module.seen += 1
    storage = FileStorage(folder / "ours")
    view = view_of(engine)
    part = write_part(PartLayout.of(view), storage, rank=rank, file=part_file("run", STEPS, 0, rank, world_size))
    parts = [None] * world_size
    torch.distributed.all_gather_object(parts, part.to_json())
    if rank == 0:
        parts = [Part.from_json(p) for p in parts]
        task = {"task": "tests:odd", "args": {}}
        manifest = describe_state(
            view, run="run", step=STEPS, attempt=0, task=task, dataset_hash="d", replicated={}, parts=parts
        )
        commit(storage, manifest)
        export_universal(manifest, storage, folder / "exported")
    if case.has_oracle:
        client = {"step": STEPS, "universal_checkpoint_info": {}}
        engine.save_checkpoint(str(folder / "theirs"), tag="native", client_state=client)
    truth = gathered(engine)
    train(engine, STEPS, 2)
    later = gathered(engine)
    if rank == 0:
        torch.save({"now": truth, "later": later}, folder / "truth.pt")


def load_ours(folder: Path, case: Case, rank: int, world_size: int) -> dict[str, dict]:
    engine = build_engine(case, world_size)
    storage = FileStorage(folder / "ours")
    manifest = read_manifest(storage, "run", STEPS)
    load_into(view_of(engine, moments=manifest.moments), manifest, storage)
    now = gathered(engine)
    train(engine, STEPS, 2)
    return {"now": now, "later": gathered(engine)}


def load_theirs(folder: Path, case: Case, rank: int, world_size: int) -> dict[str, dict]:
    engine = build_engine(case, world_size, universal=True)
    engine.load_checkpoint(str(folder / "theirs"), tag="universal", load_lr_scheduler_states=False)
    return gathered(engine)


def load_exported(folder: Path, case: Case, rank: int, world_size: int) -> dict[str, dict]:
    """What DeepSpeed itself reads from our export to its universal format."""
    engine = build_engine(case, world_size, universal=True)
    engine.load_checkpoint(str(folder), tag="exported", load_lr_scheduler_states=False)
    return gathered(engine)


def load_native(folder: Path, case: Case, rank: int, world_size: int) -> dict[str, dict]:
    """What we read from DeepSpeed's own files of another size."""
    engine = build_engine(case, world_size)
    manifest, source = read_native(folder / "theirs" / "native")
    load_into(view_of(engine, moments=manifest.moments), manifest, source)
    return gathered(engine)


def load_adopted(folder: Path, case: Case, rank: int, world_size: int) -> dict[str, dict]:
    """The same, once it was taken over as ours."""
    storage = FileStorage(folder / f"adopted-{world_size}")
    if rank == 0:
        adopt(folder / "theirs", storage, run="job", step=None, task={}, dataset_hash="d")
    torch.distributed.barrier()
    engine = build_engine(case, world_size)
    manifest = read_manifest(storage, "job", STEPS)
    load_into(view_of(engine, moments=manifest.moments), manifest, storage)
    now = gathered(engine)
    train(engine, STEPS, 2)
    return {"now": now, "later": gathered(engine)}


def compare(folder: Path, case: Case, rank: int, world_size: int) -> None:
    """Write which tensors differ, bit for bit, from the truth and from the oracle."""
    truth = torch.load(folder / "truth.pt")
    ours = load_ours(folder, case, rank, world_size)
    report = {
        "now": differing(ours["now"], truth["now"]),
        # Two more steps: averaging equal gradients over a number of ranks that is no power of two may round.
        "later": differing(ours["later"], truth["later"], tolerance=1e-5 if case.precision == "fp32" else 2e-2),
    }
    if case.has_oracle:
        # DeepSpeed's universal loader takes neither buffers nor frozen parameters.
        report["oracle"] = differing(trained(ours["now"]), trained(load_theirs(folder, case, rank, world_size)))
        report["exported"] = differing(trained(load_exported(folder, case, rank, world_size)), trained(truth["now"]))
        report["native"] = differing(load_native(folder, case, rank, world_size), truth["now"])
        adopted = load_adopted(folder, case, rank, world_size)
        report["adopted"] = differing(adopted["now"], truth["now"])
        report["adopted later"] = differing(adopted["later"], ours["later"])
    everybody = [None] * world_size
    torch.distributed.all_gather_object(everybody, report)
    if rank == 0:
        joined = {key: sorted({name for one in everybody for name in one[key]}) for key in report}
        (folder / "report.json").write_text(json.dumps({**joined, "compared": len(truth["now"])}))


def trained(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if key.split("/")[0] in ("fp32", *MOMENTS)}


def differing(found: dict, expected: dict, tolerance: float = 0.0) -> list[str]:
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    if tolerance:
        return [k for k in found if not torch.allclose(found[k].float(), expected[k].float(), tolerance, tolerance)]
    return [k for k in found if found[k].dtype != expected[k].dtype or not torch.equal(found[k], expected[k])]


def run_ranks(world_size: int, work, *args) -> None:
    """Fork a group and wait for it. Raises: RuntimeError if a rank failed."""
    folder = args[0]
    store = folder / f"store-{work.__name__}-{world_size}"
    store.unlink(missing_ok=True)
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(rank, world_size, store, work, args)) for rank in range(world_size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        raise RuntimeError(f"{work.__name__}: ranks left with {[p.exitcode for p in ranks]}")


def _rank(rank: int, world_size: int, store: Path, work, args) -> None:
    sys.stdout = sys.stderr
    try:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
        torch.set_num_threads(1)
        deepspeed.init_distributed(
            "gloo", auto_mpi_discovery=False, init_method=f"file://{store}", rank=rank, world_size=world_size
        )
        work(*args, rank, world_size)
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def convert(folder: Path, rank: int, world_size: int) -> None:
    from deepspeed.checkpoint import ds_to_universal

    theirs = folder / "theirs"
    ds_to_universal.main(
        argparse.Namespace(
            input_folder=str(theirs / "native"),
            output_folder=str(theirs / "universal"),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
    )


def main(folder: Path, cases: list[str]) -> None:
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # a compiler run of a minute
    for number, text in enumerate(cases):
        stages, precision, n, ms, *small = text.split(":")
        case = Case(int(stages[0]), int(stages[-1]), precision, bool(small))
        place = folder / str(number)
        place.mkdir(parents=True)
        run_ranks(int(n), save_all, place, case)
        if case.has_oracle:
            run_ranks(1, convert, place)
        for m in ms.split(","):
            run_ranks(int(m), compare, place, case)
            report = json.loads((place / "report.json").read_text())
            sys.stdout.write(
                json.dumps({"case": f"{stages}:{precision}:{n}:{m}", "small": case.small, **report}) + "\n"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
