"""Weights reach every rank of a machine through a window far smaller than they are, and only through their own."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.train.state import weights
from jobs.train.state.weights import Shares, exchange, open_window, spread


@pytest.fixture
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def filled(world_size, sizes, rank):
    """Per group the cuts of all ranks: the rank's own as it should be, the others' unknown."""
    return [
        [np.full(n, 10 * g + r if r == rank else 255, np.uint8) for r, n in enumerate(cut_sizes)]
        for g, cut_sizes in enumerate(sizes)
    ]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), world_size=st.integers(1, 5))
def test_every_rank_ends_with_everybodys_bytes_whatever_the_sizes(data, world_size):
    cut = st.lists(st.integers(0, 40), min_size=world_size, max_size=world_size)
    sizes = data.draw(st.lists(cut, min_size=1, max_size=3))
    window = np.zeros(2 * world_size * data.draw(st.integers(1, 9)), np.uint8)
    everyone = threading.Barrier(world_size)
    ranks = [filled(world_size, sizes, rank) for rank in range(world_size)]
    threads = [
        threading.Thread(target=exchange, args=(groups, rank, window, everyone.wait))
        for rank, groups in enumerate(ranks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for groups in ranks:
        for g, cuts in enumerate(groups):
            assert all((held == 10 * g + r).all() for r, held in enumerate(cuts))


def test_a_window_is_known_by_its_name_before_it_is_opened(tmp_path):
    token = b"0123456789abcdef"
    descriptor = weights._make(token, 4096)
    assert descriptor is not None
    other = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    try:
        assert open_window(os.getpid(), descriptor, token, 4096) is not None
        assert open_window(os.getpid(), descriptor, b"another token 16", 4096) is None
        assert open_window(os.getpid(), other, token, 4096) is None
        assert open_window(2**22 + 1, descriptor, token, 4096) is None  # no such process here: another machine's
    finally:
        os.close(descriptor)
        os.close(other)


class TestAloneInAGroup:
    def test_masters_are_cast_into_the_weights(self, alone):
        cut = torch.zeros(5, dtype=torch.bfloat16)
        assert spread([Shares([cut], torch.arange(5.0))], alone)
        assert cut.tolist() == [0, 1, 2, 3, 4]

    def test_without_a_window_nothing_is_done_and_said_so(self, alone, monkeypatch):
        monkeypatch.setattr(weights, "open_window", lambda pid, descriptor, token, nbytes: None)
        cut = torch.zeros(5)
        assert not spread([Shares([cut], torch.arange(5.0))], alone)
        assert cut.tolist() == [0] * 5

    def test_a_machine_that_gives_no_memory_file_means_no_window(self, alone, monkeypatch):
        def refuse(name):
            raise OSError(12, "no memory")

        monkeypatch.setattr(os, "memfd_create", refuse)
        assert not spread([Shares([torch.zeros(5)], torch.arange(5.0))], alone)
