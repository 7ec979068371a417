"""What DeepSpeed does while it builds an engine and nobody needs, left out or done faster.

Every rank builds the same model from the same seed, so what is sent around then is known to all. Seen in DeepSpeed
0.19; where its methods have other names, nothing is left out and everything works as before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from deepspeed.comm.torch import TorchBackend
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero.partition_parameters import Init
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

from jobs.train import gradient_tables
from jobs.train.tree_backend import Done

_TABLES = "initialize_gradient_partitioning_data_structures"


@contextlib.contextmanager
def briefly(*, state_follows: bool) -> Iterator[None]:
    """`state_follows`: all weights will be overwritten by a saved state, on every rank; then rank 0's are not sent to
    the others first (ZeRO 3: twice)."""
    with contextlib.ExitStack() as stack:
        # ZeRO 3 writes all parameters, values included, into a message that is never printed: 0.1 s a rank.
        stack.enter_context(_replaced(torch.nn.Parameter, "__repr__", object.__repr__))
        if _TABLES in vars(DeepSpeedZeroOptimizer):
            stack.enter_context(_replaced(DeepSpeedZeroOptimizer, _TABLES, gradient_tables.fill))
        # To hang a hook on each parameter, ZeRO 3 gathers it whole and looks at its shape alone.
        without = [(DeepSpeedZeroOptimizer_Stage3, "create_reduce_and_remove_grad_hooks", "all_gather_into_tensor")]
        if state_follows:
            without += [(DeepSpeedEngine, "_broadcast_model", "broadcast"), (Init, "_zero_init_param", "broadcast")]
        for owner, name, collective in without:
            if method := vars(owner).get(name):
                stack.enter_context(_replaced(owner, name, _without(collective, method)))
        yield


def _without(collective: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method with this collective of DeepSpeed's doing nothing in it; on every rank, or they would not meet."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with _replaced(TorchBackend, collective, _nothing):
            return method(*args, **kwargs)

    return call


def _nothing(*_: Any, async_op: bool = False, **__: Any) -> Done | None:
    return Done() if async_op else None


@contextlib.contextmanager
def _replaced(owner: type, name: str, value: Any) -> Iterator[None]:
    was = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, was)
