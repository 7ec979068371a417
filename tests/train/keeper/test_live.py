"""The real thing: threads, unix and TCP sockets, processes that are killed, parts of real tensors, real storage."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import jobs.train.state.storage as storage_module
from jobs.train.keeper.client import KeeperClient, KeeperRefusedError, KeeperUnavailableError
from jobs.train.keeper.keeper import Keeper
from jobs.train.keeper.rank_protocol import Refusal
from jobs.train.keeper.sink import KeeperSink
from jobs.train.keeper.socket_transport import PeerServer, SocketTransport
from jobs.train.keeper.state_storage import StateStorage
from jobs.train.keeper.states import keeper_source
from jobs.train.keeper.topology import choose_mirrors
from jobs.train.keeper.values import AttemptPlan, PartKey, SnapshotKey
from jobs.train.state.checkpoints import latest, verify
from jobs.train.state.describe import describe_state
from jobs.train.state.hashing import BLOCK_BYTES, hash_blocks
from jobs.train.state.kinds import FP32
from jobs.train.state.layout import PartLayout
from jobs.train.state.loading import fill
from jobs.train.state.manifest import Manifest
from jobs.train.state.naming import part_file
from jobs.train.state.open_storage import open_storage
from jobs.train.state.parts import copy_part_into, describe_part
from jobs.train.state.view import Piece, ShardView
from tests.train.keeper.live_keeper import LIMIT_BYTES, config

RUN = "run"
TOKEN = b"token"
TIMEOUT_S = 30.0
NUMBERS = 3 * BLOCK_BYTES // 4 + 17  # float32s of the one parameter: several blocks, none of them even


@pytest.fixture
def shm() -> Iterator[Path]:
    """A short path in shared memory: unix sockets have no room for pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="tide-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


class Node:
    """A keeper with its servers, as a node agent composes them."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.transport = SocketTransport(TOKEN, {}, timeout_s=TIMEOUT_S)
        self.keeper = Keeper(config(folder / name, name), self.transport, StateStorage.open)
        self.keeper.start()
        self.server = PeerServer(self.keeper.peer_service, TOKEN, "tcp:127.0.0.1:0", timeout_s=TIMEOUT_S)
        self.server.start()

    def begin(self, plan: AttemptPlan, addresses: dict[str, str]) -> None:
        self.transport.set_addresses(addresses)
        self.keeper.let_ranks_read_peers(addresses, TOKEN)
        self.keeper.begin_attempt(plan)

    def close(self) -> None:
        self.server.close()
        self.keeper.close(remove=True)
        self.transport.close()


class Cluster:
    """Three nodes; rank r lives on node r % 3."""

    def __init__(self, folder: Path) -> None:
        self.nodes = {name: Node(folder, name) for name in "abc"}

    def begin(self, world_size: int, attempt: int = 0, **changes) -> None:
        names = sorted(self.nodes)
        plan = AttemptPlan(
            **{
                "run": RUN,
                "attempt": attempt,
                "world_size": world_size,
                "nodes": tuple(names),
                "lead": names[0],
                "mirrors": dict(choose_mirrors(names, {}).peers),
                **changes,
            }
        )
        addresses = {name: node.server.address for name, node in self.nodes.items()}
        for node in self.nodes.values():
            node.begin(plan, addresses)

    def client(self, rank: int) -> KeeperClient:
        node = self.nodes[sorted(self.nodes)[rank % len(self.nodes)]]
        return KeeperClient(node.keeper.socket_path, timeout_s=TIMEOUT_S)

    def lose(self, name: str) -> None:
        self.nodes.pop(name).close()

    def close(self) -> None:
        for name in list(self.nodes):
            self.lose(name)


@pytest.fixture
def cluster(shm) -> Iterator[Cluster]:
    made = Cluster(shm)
    yield made
    made.close()


def values(step: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(step).standard_normal(NUMBERS).astype(np.float32))


def view_of(whole: torch.Tensor, rank: int, world_size: int) -> ShardView:
    """The rank's equal share of one parameter, and a wish for all of it back."""
    cuts = [NUMBERS * r // world_size for r in range(world_size + 1)]
    mine = Piece("w", FP32, cuts[rank], cuts[rank + 1], whole[cuts[rank] : cuts[rank + 1]])
    return ShardView(
        rank=rank, world_size=world_size, zero_stage=1, precision="fp32",
        shapes={"w": (NUMBERS,)}, owned=(mine,), wanted=(mine,),
    )  # fmt: skip


def save(cluster: Cluster, step: int, rank: int, world_size: int, attempt: int = 0) -> None:
    """What a rank does: memory, copy, hash, seal."""
    client = cluster.client(rank)
    sink = KeeperSink(client, run=RUN, attempt=attempt, rank=rank, world_size=world_size, final_wait_s=TIMEOUT_S)
    view = view_of(values(step), rank, world_size)
    layout = PartLayout.of(view)
    buffer = sink.open(step, layout.nbytes, final=False)
    copy_part_into(layout, buffer)
    part = describe_part(
        layout,
        rank=rank,
        file=part_file(RUN, step, attempt, rank, world_size),
        blocks=hash_blocks(buffer[: layout.nbytes]),
    )
    task = {"task": "m:f", "args": {}}
    sink.seal(
        part, describe_state(view, run=RUN, step=step, attempt=attempt, task=task, dataset_hash="d", replicated={})
    )
    client.close()


def save_all(cluster: Cluster, step: int, world_size: int, attempt: int = 0) -> None:
    threads = [threading.Thread(target=save, args=(cluster, step, r, world_size, attempt)) for r in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def restore(cluster: Cluster, rank: int, world_size: int) -> tuple[int, torch.Tensor, dict[str, int]]:
    """What a rank of the next attempt does: its share of the state, from wherever it is."""
    client = cluster.client(rank)
    plan = client.restore_plan(RUN, storage_step=None)
    manifest = Manifest.from_bytes(plan.manifest.encode(), "keepers")
    peers = client.peers()
    transport = SocketTransport(Path(peers["token_path"]).read_bytes(), peers["addresses"], timeout_s=TIMEOUT_S)
    source = keeper_source(plan, manifest, peers["node"], client, transport, None)
    view = view_of(torch.zeros(NUMBERS), rank, world_size)
    fill(view.wanted, manifest, source)
    transport.close()
    client.close()
    return plan.step, view.wanted[0].tensor, source.read_bytes_by_kind


def test_state_survives_the_loss_of_any_node_and_another_world_size_reads_it(cluster):
    cluster.begin(world_size=4)
    save_all(cluster, 20, 4)
    assert cluster.nodes["a"].keeper.wait_safe(RUN, 20, TIMEOUT_S)
    cluster.lose("b")
    shares = [restore(cluster, rank, 3) for rank in range(3)]
    assert {step for step, _, _ in shares} == {20}
    assert torch.equal(torch.cat([share for _, share, _ in shares]), values(20))
    read = {kind: sum(found[kind] for _, _, found in shares) for kind in ("local", "peer", "storage")}
    assert read["local"] > 0
    assert read["storage"] == 0


def test_a_flush_is_a_checkpoint_like_any_other(cluster, tmp_path):
    url = (tmp_path / "store").as_uri()
    cluster.begin(world_size=3, storage_url=url, keep_checkpoints=1)
    lead = cluster.nodes["a"].keeper
    for step in (20, 40):
        save_all(cluster, step, 3)
        assert lead.wait_safe(RUN, step, TIMEOUT_S)
        lead.flush_now(RUN)
        assert lead.wait_flushed(RUN, step, TIMEOUT_S)
    storage = open_storage(url)
    manifest = latest(storage, RUN)
    assert manifest.step == 40
    assert verify(manifest, storage) == []
    assert len({name.split("/")[1] for name in storage.names(RUN)}) == 1, "older ones are pruned"
    view = view_of(torch.zeros(NUMBERS), 0, 1)
    fill(view.wanted, manifest, storage)
    assert torch.equal(view.wanted[0].tensor, values(40))


def test_read_only_storage_is_said_and_training_goes_on(cluster, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    cluster.begin(world_size=1, storage_url=(blocker / "store").as_uri(), checkpoint_every_s=0.001)
    lead = cluster.nodes["a"].keeper
    save_all(cluster, 20, 1)
    with lead.runs.changed:
        assert lead.runs.changed.wait_for(lambda: lead.status(RUN).flush_error, TIMEOUT_S)
    assert "earlier checkpoints are untouched" in lead.status(RUN).flush_error
    save_all(cluster, 40, 1)
    assert lead.wait_safe(RUN, 40, TIMEOUT_S)
    blocker.unlink()
    blocker.mkdir()
    assert lead.wait_flushed(RUN, 40, TIMEOUT_S), "it is tried again until storage is there"


class FullDisk:
    """An `os` on whose disk nothing more fits than the first few bytes of a file."""

    def __getattr__(self, name):
        return getattr(os, name)

    def posix_fallocate(self, descriptor, offset, nbytes):
        pass  # a file system that promises and does not keep it

    def write(self, descriptor, data):
        if len(data) <= 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(descriptor, data[:100])


def test_a_disk_that_fills_up_during_a_flush_leaves_the_older_checkpoint_and_nothing_half(
    cluster, tmp_path, monkeypatch
):
    url = (tmp_path / "store").as_uri()
    cluster.begin(world_size=3, storage_url=url)
    lead = cluster.nodes["a"].keeper
    save_all(cluster, 20, 3)
    assert lead.wait_safe(RUN, 20, TIMEOUT_S)
    lead.flush_now(RUN)
    assert lead.wait_flushed(RUN, 20, TIMEOUT_S)
    with monkeypatch.context() as patch:
        patch.setattr(storage_module, "os", FullDisk())
        save_all(cluster, 40, 3)
        lead.flush_now(RUN)
        with lead.runs.changed:
            assert lead.runs.changed.wait_for(lambda: lead.status(RUN).flush_error, TIMEOUT_S)
        assert "storage is full; earlier checkpoints are untouched" in lead.status(RUN).flush_error
    storage = open_storage(url)
    manifest = latest(storage, RUN)
    assert manifest.step == 20
    assert verify(manifest, storage) == []
    save_all(cluster, 60, 3)
    assert lead.wait_safe(RUN, 60, TIMEOUT_S), "training goes on"
    lead.flush_now(RUN)
    assert lead.wait_flushed(RUN, 60, TIMEOUT_S), "and the next flush finds room again"
    assert not list((tmp_path / "store").rglob("*.tmp"))


def test_segments_keep_their_mapping_from_one_snapshot_to_the_next(cluster):
    cluster.begin(world_size=1)
    client = cluster.client(0)
    sink = KeeperSink(client, run=RUN, attempt=0, rank=0, world_size=1, final_wait_s=TIMEOUT_S)
    view = view_of(values(1), 0, 1)
    layout = PartLayout.of(view)
    for step in range(20, 200, 20):
        buffer = sink.open(step, layout.nbytes, final=False)
        copy_part_into(layout, buffer)
        part = describe_part(layout, rank=0, file=f"f{step}", blocks=hash_blocks(buffer[: layout.nbytes]))
        task = {"task": "m:f", "args": {}}
        state = describe_state(view, run=RUN, step=step, attempt=0, task=task, dataset_hash="d", replicated={})
        sink.seal(part, state)
        assert cluster.nodes["a"].keeper.wait_safe(RUN, step, TIMEOUT_S)
    assert len(client._maps) == 3
    client.close()


def test_memory_is_ready_before_the_first_step_or_refused_then(cluster):
    cluster.begin(world_size=1)
    client = cluster.client(0)
    sink = KeeperSink(client, run=RUN, attempt=0, rank=0, world_size=1, final_wait_s=TIMEOUT_S)
    keeper = cluster.nodes["a"].keeper
    sink.prepare(2**20)
    ready = keeper.store.used_bytes
    assert ready == 3 * 2 * 2**20, "three segments of one huge page each"
    sink.open(20, 2**20, final=False)
    assert keeper.store.used_bytes == ready
    with pytest.raises(KeeperRefusedError, match="no room") as refused:
        sink.prepare(LIMIT_BYTES)
    assert refused.value.refusal is Refusal.NO_ROOM
    client.close()


class Killable:
    """A keeper process, to be killed with -9."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.train.keeper.live_keeper", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        while (line := self.process.stdout.readline()) and line != b"ready\n":
            pass
        assert line, "the keeper did not start"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def test_kill_9_of_the_keeper_loses_no_sealed_part_and_the_rank_goes_on(shm):
    folder = shm / "n"
    keeper = Killable(folder)
    client = KeeperClient(str(folder / "keeper.sock"), timeout_s=TIMEOUT_S)

    def part(step: int) -> PartKey:
        return PartKey(snapshot=SnapshotKey(run=RUN, step=step, attempt=0, world_size=1), rank=0)

    data = os.urandom(BLOCK_BYTES + 5)
    entry = {"rank": 0, "file": "f", "nbytes": len(data), "blocks": hash_blocks(memoryview(data))}
    client.alloc(part(20), len(data))[:] = data
    client.seal(part(20), entry, {"step": 20})
    half = client.alloc(part(40), len(data))
    half[:100] = data[:100]
    keeper.kill()
    with pytest.raises(KeeperUnavailableError):
        client.seal(part(40), entry, {})
    heir = Killable(folder)
    with pytest.raises(KeeperRefusedError) as refused:
        client.seal(part(40), entry, {})
    assert refused.value.refusal is Refusal.CONFLICT
    assert Path(client.locate(part(20))).read_bytes()[: len(data)] == data
    assert client.restore_plan(RUN, storage_step=None).step == 20
    client.alloc(part(60), len(data))[:] = data
    client.seal(part(60), entry, {"step": 60})
    assert client.restore_plan(RUN, storage_step=None).step == 60
    client.close()
    heir.kill()
