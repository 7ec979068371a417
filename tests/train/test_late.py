"""What a device is still computing is not waited for before it is read; what the host knows goes its own way."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from jobs.train import groups
from jobs.train.groups import Groups, StepSum
from jobs.train.late import late


@pytest.fixture
def alone():
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield Groups(store, dist.group.WORLD)
    dist.destroy_process_group()


def test_numbers_of_the_host_are_taken_as_they_are_now():
    value = torch.tensor(1.5)
    read = late(value)
    value += 1
    assert (read(), late(2.5)()) == (1.5, 2.5)


def test_a_loss_on_the_host_is_summed_with_the_rest(alone):
    assert StepSum((1.0, torch.tensor(0.1, dtype=torch.float64), 2.0**32 - 1), alone).wait() == [1.0, 0.1, 2.0**32 - 1]


def test_a_loss_on_a_device_is_read_when_the_sum_is_and_lands_in_its_place(alone, monkeypatch):
    asked = []

    class FakeLateSum:
        def __init__(self, values, device_group):
            asked.append((len(values), device_group))

        def wait(self):
            asked.append("read")
            return [7.0]

    monkeypatch.setattr(groups, "LateSum", FakeLateSum)
    begun = StepSum((1.0, torch.empty((), device="meta"), 3.0), alone)
    assert asked == [(1, dist.group.WORLD)]
    assert begun.wait() == [1.0, 7.0, 3.0]
    assert asked[1:] == ["read"]
