"""An engine is built with as few collectives as it needs, and is the same engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

# One rank is enough: what it would send, it sends to itself.
BUILD = """
import collections, contextlib, json, os, sys
from jobs.train.preload import prepare_process
prepare_process()
import deepspeed, torch, torch.distributed as dist
from deepspeed.comm.torch import TorchBackend
from jobs.train.building import briefly
os.environ.update({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"})
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
sent = collections.Counter()
def counted(name, method):
    def call(*args, **kwargs):
        sent[name] += 1
        return method(*args, **kwargs)
    return call
for name in ("broadcast", "all_gather_into_tensor"):
    setattr(TorchBackend, name, counted(name, getattr(TorchBackend, name)))
torch.nn.Parameter.__repr__ = counted("repr", torch.nn.Parameter.__repr__)
def build(how, stage):
    torch.manual_seed(3)
    sent.clear()
    model = torch.nn.Sequential(torch.nn.Linear(400, 300), torch.nn.Linear(300, 400))
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "optimizer": {"type": "AdamW", "params": {"torch_adam": True}},
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
    }
    with how:
        engine = deepspeed.initialize(model=model, model_parameters=list(model.parameters()), config=config,
                                      dist_init_required=False)[0]
    building = dict(sent)
    losses = []
    for step in range(3):
        loss = engine(torch.full((2, 400), 1.0 + step)).square().mean()
        engine.backward(loss)
        engine.step()
        losses.append(float(loss))
    return {"sent": building, "losses": losses}
ways = {"plain": contextlib.nullcontext, "fresh": lambda: briefly(state_follows=False),
        "restored": lambda: briefly(state_follows=True)}
print(json.dumps({f"{way}-{stage}": build(how(), stage) for way, how in ways.items() for stage in (1, 3)}))
"""


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    env = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", BUILD], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("stage", [1, 3])
def test_it_learns_the_same(built: dict[str, Any], stage: int) -> None:
    assert (
        built[f"plain-{stage}"]["losses"] == built[f"fresh-{stage}"]["losses"] == built[f"restored-{stage}"]["losses"]
    )


@pytest.mark.parametrize("stage", [1, 3])
def test_weights_that_a_state_will_overwrite_are_not_sent(built: dict[str, Any], stage: int) -> None:
    assert built[f"plain-{stage}"]["sent"]["broadcast"] >= 4
    assert built[f"fresh-{stage}"]["sent"]["broadcast"] == built[f"plain-{stage}"]["sent"]["broadcast"]
    assert "broadcast" not in built[f"restored-{stage}"]["sent"]


def test_nothing_is_gathered_for_its_shape_alone_nor_written_out(built: dict[str, Any]) -> None:
    assert built["plain-3"]["sent"]["all_gather_into_tensor"] >= 4
    assert built["plain-3"]["sent"]["repr"] >= 4
    for way in ("fresh", "restored"):
        assert not built[f"{way}-3"]["sent"].keys() & {"all_gather_into_tensor", "repr"}
