"""Bring a process to the point where a rank can start at once: everything imported, no compiler in the path.

Both starters run through here, the stem long before the first rank. Leaves no thread and no device context behind.
"""

from __future__ import annotations

import gc
import importlib
import os

from jobs.train import heap
from jobs.train.device import Accelerator, choose_accelerator

# Modules that a rank would otherwise import between its start and its first step. `torch._dynamo` and Adam's module
# come with the first optimizer that is built; DeepSpeed imports the ZeRO stages, and its layers of experts, inside
# `initialize`; `np.unique` imports `numpy.ma` (0.05 s a rank: 5 s for 200 ranks on two cores).
STEM_MODULES = (
    "torch._dynamo",
    "torch.optim.adamw",
    "torch.distributed.distributed_c10d",
    "deepspeed.runtime.zero.stage3",
    "deepspeed.runtime.zero.stage_1_and_2",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.module_inject.auto_ep_comm",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.comm.mori",
    "torch.profiler._cupti_monitor",
    "numpy.ma",
    "encodings.idna",
    "jobs.models.loading",
    "jobs.models.gpt",
    "jobs.train.rank",
    "jobs.train.session",
)


def prepare_process() -> Accelerator:
    """Import torch and DeepSpeed for this node's device, with every path to a compiler closed; returns the device.

    Must run before anything else imports DeepSpeed, which picks its accelerator while it is imported.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    accelerator = choose_accelerator(os.environ, torch_has_cuda=torch.version.cuda is not None)
    os.environ["DS_ACCELERATOR"] = accelerator
    import deepspeed.ops

    # DeepSpeed asks this table whether to build `deepspeed_shm_comm` with g++ (about a minute) at the first process
    # group; training never calls that operator. Filling it also keeps DeepSpeed from probing all compilers.
    vars(deepspeed.ops)["__compatible_ops__"] = {"deepspeed_shm_comm": False}
    _import_muon_uncompiled()
    _quieten()
    if accelerator == "cpu":
        _without_ranges()
    heap.keep()
    return accelerator


def warm_up(extra_modules: tuple[str, ...] = ()) -> None:
    """Import what ranks need and freeze it, so that the garbage collector does not copy shared pages in the ranks."""
    for name in (*STEM_MODULES, *extra_modules):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Inner modules of torch and DeepSpeed come and go between their versions; ranks import what they need.
            if not (error.name or "").startswith(("torch.", "deepspeed.")):
                raise
    from jobs.train import config, messages, wire
    from jobs.train.keeper import restore, values

    wire.prepare(
        config.StartRequest, *messages.KINDS, restore.RestorePlan, values.SnapshotKey, values.PartKey, values.PartMeta
    )
    gc.collect()
    gc.freeze()


def num_threads() -> int:
    """Threads of this process; more than 1 makes a fork unsafe."""
    return len(os.listdir("/proc/self/task"))


def require_forkable() -> None:
    """Raises: RuntimeError if the imports have left something that a child could not use."""
    import torch

    if num_threads() != 1:
        raise RuntimeError(
            f"the imports started {num_threads() - 1} threads, so ranks cannot be forked; preload fewer modules"
        )
    if torch.cuda.is_initialized():
        raise RuntimeError("the imports initialised CUDA, so ranks cannot be forked; preload fewer modules")


def _import_muon_uncompiled() -> None:
    """DeepSpeed imports Muon for every optimizer, and Muon's decorators import torch's whole compiler.

    That is 1.3 s and 75 MB a process for functions that AdamW never calls; undecorated ones do as well.
    """
    from deepspeed.runtime import compiler

    compile_ = compiler.compile
    compiler.compile = lambda *_args, **_options: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compile_


def _quieten() -> None:
    """DeepSpeed logs dozens of lines a rank at INFO and uses names that torch warns of; real warnings stay."""
    import logging
    import warnings

    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")


def _without_ranges() -> None:
    """DeepSpeed opens a range for NVIDIA's profiler in thousands of calls a step, and no such profiler runs here."""
    from deepspeed.utils import nvtx

    vars(nvtx)["enable_nvtx"] = False
