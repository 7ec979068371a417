"""Ranks that compare tree and ring. `python -m tests.train.tree_ranks N` forks N and says whether they agree."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TORCH_GLOO_LAZY_INIT"] = "1"

import deepspeed
import torch
import torch.distributed as dist
from deepspeed import comm

from jobs.train import tree as trees
from jobs.train.host_names import names_from_hosts_file
from jobs.train.tree import Tree, enroll, tree_of
from jobs.train.tree_backend import install

ELEMENTS = 7


def compare(rank: int, size: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    tree = tree_of(None)
    assert tree is not None
    # Whole numbers: sums are exact in any order.
    mine = torch.randint(-1000, 1000, (3, ELEMENTS), generator=generator).float()
    for op in (dist.ReduceOp.SUM, dist.ReduceOp.MAX, dist.ReduceOp.MIN):
        expected, found = mine.clone(), mine.clone()
        dist.all_reduce(expected, op=op)
        tree.all_reduce(found, op)
        assert torch.equal(found, expected), op
    strided = mine.clone().t()
    tree.all_reduce(strided)
    expected = mine.clone()
    dist.all_reduce(expected)
    assert torch.equal(strided, expected.t())
    for dst in (0, 1, size - 1):
        found = mine.clone()
        tree.reduce(found, dst)
        assert torch.equal(found, expected if rank == dst else mine), dst
    gathered, ring = torch.empty(size * mine.numel()), torch.empty(size * mine.numel())
    tree.all_gather(gathered, mine)
    dist.all_gather_into_tensor(ring, mine.view(-1))
    assert torch.equal(gathered, ring)
    whole = torch.randint(-1000, 1000, (size * ELEMENTS,), generator=generator).float()
    kept = whole.clone()
    mine_of_it = torch.empty(ELEMENTS)
    tree.reduce_scatter(mine_of_it, whole)
    dist.all_reduce(kept)
    assert torch.equal(mine_of_it, kept[rank * ELEMENTS : (rank + 1) * ELEMENTS])
    passed = mine.clone()
    tree.broadcast(passed)
    dist.broadcast(mine, src=0)
    assert torch.equal(passed, mine)


def compare_deepspeed(rank: int, size: int) -> None:
    """DeepSpeed's own functions go through the tree when it suits, and past it when it does not."""
    used = _counted()
    one = torch.full((4,), float(rank))
    comm.all_reduce(one, op=comm.ReduceOp.MAX)
    assert one.tolist() == [size - 1.0] * 4
    total = torch.ones(2)
    handle = comm.all_reduce(total, group=dist.group.WORLD, async_op=True)
    handle.wait()
    assert total.tolist() == [size, size]
    everybody = torch.empty(size)
    comm.all_gather_into_tensor(everybody, torch.tensor([float(rank)]))
    assert everybody.tolist() == list(range(size))
    part = torch.empty(1)
    comm.reduce_scatter_tensor(part, torch.arange(float(size)))
    assert part.item() == rank * size
    comm.reduce(total, 0)
    news = torch.tensor([5.0 if rank == 0 else 0.0])
    comm.broadcast(news, 0)
    assert news.item() == 5.0
    comm.barrier()
    assert used == ["all_reduce", "all_reduce", "all_gather", "reduce_scatter", "reduce", "broadcast", "barrier"], used
    large = torch.ones(trees.MAX_BYTES_PER_RANK * size // 4 + 1)
    comm.all_reduce(large)
    assert len(used) == 7, "too large between machines"
    tree = tree_of(None)
    assert tree is not None
    tree.look_around()
    assert tree.suits(large), "all ranks are in one machine"
    used.clear()
    comm.all_reduce(large)
    assert used == ["all_reduce"]
    assert large[0].item() == size * size
    comm.all_reduce(torch.ones(trees.MAX_BYTES_PER_RANK_IN_MACHINE * size // 4 + 1))
    used.extend([""] * 6)
    comm.all_reduce(one, op=comm.ReduceOp.PRODUCT)
    comm.broadcast(news, 1)
    assert len(used) == 7, used


def _counted() -> list[str]:
    used: list[str] = []
    for name in ("all_reduce", "all_gather", "reduce_scatter", "reduce", "broadcast", "barrier"):

        def call(self, *args, _name=name, _method=getattr(Tree, name)):
            used.append(_name)
            depth = len(used)
            _method(self, *args)
            del used[depth:]  # what an operation is made of does not count

        setattr(Tree, name, call)
    return used


def main(size: int) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(rank, size, port)) for rank in range(size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        raise SystemExit(f"ranks left with {[process.exitcode for process in ranks]}")
    sys.stdout.write(f"{size} ranks agree\n")


def _rank(rank: int, size: int, port: int) -> None:
    try:
        torch.set_num_threads(1)
        vars(deepspeed.ops)["__compatible_ops__"] = {"deepspeed_shm_comm": False}
        with names_from_hosts_file():
            store = dist.TCPStore("127.0.0.1", port, size, rank == 0, wait_for_workers=False)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
            install()
            install()  # again is harmless
            assert enroll(dist.group.WORLD) is not None
            trees.barrier(dist.group.WORLD)
        deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
        compare(rank, size)
        compare_deepspeed(rank, size)
        trees.barrier(None)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
