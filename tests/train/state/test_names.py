"""Names of a model's tensors, found in one walk, are those that torch's own lists give."""

from __future__ import annotations

import torch
from torch import nn

from jobs.train.state.deepspeed_shards import view_of_model


class Knotted(nn.Module):
    """A module under two names, a parameter under two names, and buffers of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2))
        self.again = self.first[0]
        self.last = nn.Linear(3, 2)
        self.last.weight = self.first[0].weight
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("alias", self.kept)
        self.register_buffer("passing", torch.ones(3), persistent=False)
        self.register_buffer("empty", torch.ones(0))
        self.register_buffer("absent", None)


def test_one_walk_finds_what_torch_lists() -> None:
    model = Knotted()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    view = view_of_model(model, optimizer, rank=0, world_size=1, zero_stage=0, precision="fp32")
    params = {name: tuple(param.shape) for name, param in model.named_parameters()}
    dropped = {"passing", "empty"}
    buffers = {name: tuple(b.shape) for name, b in model.named_buffers() if name not in dropped}
    assert list(view.shapes.items()) == list((params | buffers).items())
    first = {id(param): name for name, param in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    assert view.tied == {name: first[id(param)] for name, param in every if name != first[id(param)]}
    assert set(view.tied) == {"again.weight", "last.weight"}
