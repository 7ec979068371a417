"""One tiny training step in a child of the stem, thrown away: it brings the libraries' code from disk into memory.

The first matrix product on a cold node reads hundreds of megabytes of library pages; measured, 15 s on a slow disk.
"""

from __future__ import annotations

import os
import sys

_EXIT_FAILED = 1


def rehearse() -> bool:
    """Fork, train one step on the processor, wait; whether it worked. Nothing of it stays in this process."""
    pid = os.fork()
    if pid == 0:
        code = _EXIT_FAILED
        try:
            _train_one_step()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == 0


def _train_one_step() -> None:
    import deepspeed
    import torch
    import torch.distributed as dist
    from torch import nn

    os.environ.update({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"})
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    model = nn.Sequential(nn.Embedding(8, 64), nn.TransformerEncoderLayer(64, 2, 128, batch_first=True))
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=list(model.parameters()),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "optimizer": {"type": "AdamW", "params": {"torch_adam": True, "fused": True}},
            "zero_optimization": {"stage": 1, "reduce_bucket_size": 1_000_000},
        },
        dist_init_required=False,
    )
    engine.backward(engine(torch.zeros(1, 32, dtype=torch.int64)).square().mean())
    engine.step()
