"""Snapshots that cannot fit are refused before the first rank starts, with numbers; what only might not fit is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.data import pack
from jobs.models.task import Task
from jobs.train.footprint import footprint
from jobs.train.keeper.memory import Space
from orchestrator.adapters.ray_train.fitting import Fitting, KeeperRoom, keeper_room, require_room, require_share
from orchestrator.adapters.ray_train.keeper_host import KeeperFacts
from orchestrator.adapters.ray_train.prepare import prepare
from orchestrator.adapters.ray_train.run_state import RunState
from orchestrator.spec import TrainJob, load_text
from orchestrator.spec.errors import ExitCode, UserError

GIB = 2**30
ROOT = Path(__file__).resolve().parents[2]
JOB = """
apiVersion: tideline/v1
kind: TrainJob
metadata: {{name: j}}
spec:
  workers: {{min: 1, max: 2}}
  task: {task}
  args: {args}
  data: {{dataset: corpus@latest}}
  batch: {{global_batch_size: 8, micro_batch_size: 2}}
  steps: 3
"""
SMALL = "{layers: 1, d_model: 32, heads: 2, seq_len: 16}"
LARGE = "{layers: 16, d_model: 512, heads: 8, seq_len: 16}"


def keeper(node, *, host="", ranks=2, limit=1 << 50, free=16 * GIB, total=16 * GIB):
    space = Space(total_bytes=total, free_bytes=free)
    return KeeperRoom(node=node, host=host or node, ranks=ranks, limit_bytes=limit, space=space)


def test_own_parts_and_mirrored_ones_are_counted_against_the_limit():
    # Two nodes, two ranks of 1 GiB each: 2 x 4 copies of their own (one being flushed), 2 x 3 of the other's.
    nodes = [keeper("a", limit=14.1 * GIB), keeper("b", limit=14.1 * GIB)]
    require_room(4 * GIB, 4, nodes, domains={}, mirrors=1)
    with pytest.raises(
        UserError, match=r"keeper of node b needs 14\.\d\d GiB .* but its limit is 13\.00 GiB"
    ) as refused:
        require_room(4 * GIB, 4, [nodes[0], keeper("b", limit=13 * GIB)], domains={}, mirrors=1)
    assert refused.value.code is ExitCode.NEVER


def test_without_mirrors_a_node_holds_its_own_alone():
    require_room(4 * GIB, 4, [keeper("a", limit=8.1 * GIB), keeper("b", limit=8.1 * GIB)], domains={}, mirrors=0)


def test_keepers_of_one_machine_share_its_memory():
    require_room(4 * GIB, 4, [keeper("a"), keeper("b")], domains={}, mirrors=1)  # 14 GiB each
    with pytest.raises(UserError, match=r"node a and its neighbours needs 28\.\d\d GiB .* but /dev/shm has 16\.00 GiB"):
        require_room(4 * GIB, 4, [keeper("a", host="m"), keeper("b", host="m")], domains={}, mirrors=1)


def test_a_machine_of_many_nodes_is_not_asked_to_hold_more_ranks_than_there_are():
    nodes = [keeper(f"n{i}", host="m", ranks=8) for i in range(10)]
    require_room(2 * GIB, 8, nodes, domains={}, mirrors=1)  # 8 parts of a quarter GiB, kept 4 and 3 times: 14 GiB


def test_a_node_without_room_for_ranks_holds_mirrors_only():
    nodes = [keeper("a", ranks=2), keeper("spare", ranks=0, limit=6.1 * GIB)]
    require_room(2 * GIB, 2, nodes, domains={}, mirrors=1)


def test_the_smallest_size_is_warned_of_and_does_not_stop_a_start():
    fitting = Fitting(state_bytes=8 * GIB, min_workers=1, mirrors=0, domains={})
    fitting.require(8, [keeper("a", ranks=1, limit=5 * GIB)])
    with pytest.raises(UserError):
        fitting.require(1, [keeper("a", ranks=1, limit=5 * GIB)])


def test_a_share_that_no_cluster_could_keep_is_refused():
    require_share(8 * GIB, 8, 5 * GIB)
    with pytest.raises(UserError, match="node of one rank needs"):
        require_share(8 * GIB, 8, 3 * GIB)


def test_a_keepers_room_is_told_apart_by_its_host():
    facts = KeeperFacts(
        socket_path="/s", address="tcp:10.0.0.1:77", limit_bytes=5, space=Space(total_bytes=9, free_bytes=7)
    )
    assert keeper_room("n", facts, 3) == KeeperRoom(
        node="n", host="tcp:10.0.0.1", ranks=3, limit_bytes=5, space=Space(total_bytes=9, free_bytes=7)
    )


class SilentFleet:
    """No keepers; notes what began."""

    def __init__(self):
        self.begun = []

    def keepers(self):
        return {}

    def marker_trouble(self, url, marker):
        return None

    def begin_attempt(self, attempt, world_size, **rest):
        self.begun.append((attempt, rest["domains"]))


def test_only_the_sessions_first_attempt_is_refused_and_then_no_keeper_is_told(tmp_path):
    fleet, asked = SilentFleet(), []

    def refuse(world_size, keepers):
        asked.append(world_size)
        raise UserError("does not fit", code=ExitCode.NEVER)

    rest = {"storage_url": tmp_path.as_uri(), "every_s": 1.0, "keep": 1, "domains": lambda: {"n": "zone"}}
    with pytest.raises(UserError):
        RunState("r", fleet, require_room=refuse, **rest).begin(1, 4, ())
    assert (fleet.begun, asked) == ([], [4])
    state = RunState("r", fleet, require_room=lambda world_size, keepers: asked.append(world_size), **rest)
    state.begin(1, 4, ())
    state.begin(2, 1, ())
    assert (asked, fleet.begun) == ([4, 4], [(1, {"n": "zone"}), (2, {"n": "zone"})])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    pack(ROOT / "orchestrator" / "planner", name="corpus", home=home)
    return home


def a_job(more="", *, args=SMALL, task="jobs.models.gpt:task"):
    (job,) = load_text(JOB.format(task=task, args=args) + more)
    assert isinstance(job, TrainJob)
    return job


def test_the_state_is_twelve_bytes_a_parameter_and_the_model_is_not_built(home):
    prepared = prepare(a_job(), home, "j")
    found = footprint(prepared.task)
    assert prepared.state_bytes == found.state_bytes >= 12 * found.parameters > 0


def test_a_limit_below_one_ranks_share_is_refused_while_preparing(home):
    with pytest.raises(UserError, match=r"but its limit is 0\.00 GiB"):
        prepare(a_job("  checkpoint: {keeper_memory: 1MiB}\n"), home, "j")


def test_strict_is_refused_for_a_large_model_while_preparing(home):
    strict = "  strict: true\n  deepspeed: {zero_stage: 1, precision: fp32}\n"
    prepare(a_job(strict), home, "j")
    with pytest.raises(UserError, match="strict is for models of up to 50,000,000 parameters"):
        prepare(a_job(strict, args=LARGE), home, "j")


class Stubborn(Task):
    """Its model needs real memory to be built."""

    def build_model(self):
        raise RuntimeError("needs real weights")


def test_a_model_that_cannot_be_counted_is_not_refused(home, monkeypatch):
    monkeypatch.setattr("orchestrator.adapters.ray_train.prepare.load_task", lambda name, args: Stubborn())
    assert prepare(a_job(), home, "j").state_bytes is None
