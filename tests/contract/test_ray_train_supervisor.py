"""A worker's supervisor: however its ranks end, it says so once and leaves none behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from jobs.train.messages import Failed, Finished, Phase, Step, Stop, Stopped, decode, encode
from jobs.train.starters import Exit
from orchestrator.adapters.ray_train.protocol import Abort, Hung, Leaving, Left, Place, Said, StacksOf, Tell
from orchestrator.adapters.ray_train.stacks import RankProcess, RankStack
from orchestrator.adapters.ray_train.supervisor import Node, NoWitness, Supervisor, Witness
from tests.contract.ray_train_fakes import FakeLink, FakeStarter, plan

STEP = Step(step=1, loss=2.0, lr=0.1, grad_norm=1.0, tokens=8, step_s=0.1, hash_hi=1, hash_lo=2, mfu=0.0)
GONE = Exit(0, None)


@pytest.fixture
def link() -> Iterator[FakeLink]:
    link = FakeLink()
    yield link
    link.close()


class Watching:
    """Writes down whom it was told of, and asked about."""

    def __init__(self) -> None:
        self.story: list[tuple[str, tuple[int, ...]]] = []
        self.environments: list[Mapping[str, str]] = []

    def came(self, attempt: int, worker: int, ranks: Mapping[int, RankProcess]) -> None:
        self.story.append(("came", tuple(ranks)))
        self.environments += [process.env for process in ranks.values()]

    def gone(self, attempt: int, worker: int) -> None:
        self.story.append(("gone", ()))

    def stacks(self, ranks: Mapping[int, RankProcess]) -> tuple[RankStack, ...]:
        self.story.append(("stacks", tuple(ranks)))
        return tuple(RankStack(rank=rank, pid=1, how="py-spy", text="here") for rank in ranks)


def supervise(
    starter: FakeStarter,
    link: FakeLink,
    tmp_path: Path,
    *,
    world_size: int = 2,
    per_worker: int = 2,
    witness: Witness | None = None,
) -> Left:
    place = Place(plan=plan(1, world_size, per_worker), master_addr="127.0.0.1", master_port=1)
    node = Node(
        node_id="n1",
        keeper_socket="/keeper.sock",
        dataset_dir="/close/by",
        cwd="",
        log_dir=tmp_path / "logs",
        env_of=lambda local_rank: {"DEVICE": str(local_rank)},
        witness=witness or NoWitness(),
    )
    left = Supervisor(place, 0, node, starter, link).run()
    assert all(rank.closed for rank in starter.started), "a rank outlived its supervisor"
    return left


def test_all_ranks_finish_and_only_rank_0_tells_steps(link: FakeLink, tmp_path: Path) -> None:
    script = [Phase("imports", 0.1), STEP, Finished(1, {})]
    starter = FakeStarter({0: (script, GONE), 1: (script, GONE)})
    left = supervise(starter, link, tmp_path)
    assert (left.how, left.step) == (Leaving.FINISHED, 1)
    steps = [said.rank for said in link.said if isinstance(said, Said) and isinstance(decode(said.line), Step)]
    assert steps == [0]
    assert [rank.request.env["DEVICE"] for rank in starter.started] == ["0", "1"]
    assert starter.started[0].request.job.keeper_socket == "/keeper.sock"
    assert starter.started[0].request.job.dataset_dir == "/close/by"


def test_orderly_stop_carries_the_agreed_step(link: FakeLink, tmp_path: Path) -> None:
    starter = FakeStarter({rank: ([Stopped(7, "grow")], GONE) for rank in (0, 1)})
    left = supervise(starter, link, tmp_path)
    assert (left.how, left.step) == (Leaving.STOPPED, 7)


def test_a_stop_order_reaches_every_rank(link: FakeLink, tmp_path: Path) -> None:
    class Obedient(FakeLink):
        def orders(self):  # type: ignore[no-untyped-def]
            orders = super().orders()
            for rank in starter.started:
                rank.end([Stopped(3, "grow")], GONE)
            return orders

    starter = FakeStarter({0: ([], None), 1: ([], None)})
    obedient = Obedient()
    obedient.give(Tell(attempt=1, line=encode(Stop("grow"))))
    left = supervise(starter, obedient, tmp_path)
    obedient.close()
    assert left.how is Leaving.STOPPED
    assert [rank.sent for rank in starter.started] == [[Stop("grow")], [Stop("grow")]]


@pytest.mark.parametrize(
    ("exit_", "kind", "detail"),
    [
        (Exit(None, signal.SIGKILL), "killed", "rank 1 was killed by SIGKILL"),
        (Exit(3, None), "killed", "rank 1 exited with code 3 without a word"),
        (Exit(None, None), "killed", "rank 1 vanished"),
    ],
)
def test_a_rank_that_ends_without_a_word_fails_its_worker(
    link: FakeLink, tmp_path: Path, exit_: Exit, kind: str, detail: str
) -> None:
    starter = FakeStarter({0: ([STEP], None), 1: ([STEP], exit_)})
    left = supervise(starter, link, tmp_path)
    assert (left.how, left.kind, left.detail) == (Leaving.FAILED, kind, detail)


def test_a_failure_is_told_by_its_own_kind(link: FakeLink, tmp_path: Path) -> None:
    failed = Failed("nan", "loss is nan at step 4", "Traceback ...")
    starter = FakeStarter({0: ([], None), 1: ([failed], Exit(1, None))})
    left = supervise(starter, link, tmp_path)
    assert (left.how, left.kind, left.detail) == (Leaving.FAILED, "nan", "loss is nan at step 4")


def test_a_start_that_fails_takes_the_started_ranks_along(link: FakeLink, tmp_path: Path) -> None:
    starter = FakeStarter({0: ([], None)})
    left = supervise(starter, link, tmp_path)
    assert (left.how, left.kind) == (Leaving.FAILED, "start")
    assert len(starter.started) == 1


def test_an_abort_ends_the_ranks_at_once(link: FakeLink, tmp_path: Path) -> None:
    starter = FakeStarter({0: ([], None), 1: ([], None)})
    link.give(Abort(attempt=1, reason="a peer failed"))
    left = supervise(starter, link, tmp_path)
    assert (left.how, left.detail) == (Leaving.ABORTED, "a peer failed")


def test_the_last_worker_may_have_fewer_ranks() -> None:
    uneven = plan(1, 5, 2)
    assert [list(uneven.ranks_of(worker)) for worker in range(uneven.num_workers)] == [[0, 1], [2, 3], [4]]


def test_a_witness_knows_the_ranks_while_they_run(link: FakeLink, tmp_path: Path) -> None:
    starter, witness = FakeStarter({rank: ([Finished(1, {})], GONE) for rank in (0, 1)}), Watching()
    supervise(starter, link, tmp_path, witness=witness)
    assert witness.story == [("came", (0, 1)), ("gone", ())]
    wanted = {"DEVICE": "1", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    assert wanted.items() <= witness.environments[1].items()


def test_when_a_rank_waited_in_vain_the_others_say_where_they_stand_before_they_are_killed(
    link: FakeLink, tmp_path: Path
) -> None:
    waited = Failed("hang", "timed out after 10 s", "Traceback ...")
    starter, witness = FakeStarter({0: ([waited], Exit(1, None)), 1: ([STEP], None)}), Watching()
    left = supervise(starter, link, tmp_path, witness=witness)
    assert (left.how, left.kind) == (Leaving.FAILED, "hang")
    assert witness.story == [("came", (0, 1)), ("stacks", (1,)), ("gone", ())]
    kinds = [type(item) for item in link.said]
    assert kinds.index(Hung) < kinds.index(StacksOf)
    (said,) = [item for item in link.said if isinstance(item, StacksOf)]
    assert [(one.rank, one.text) for one in said.stacks] == [(1, "here")]


@pytest.mark.parametrize("hung", [True, False])
def test_an_abort_asks_for_stacks_only_where_somebody_hangs(link: FakeLink, tmp_path: Path, hung: bool) -> None:
    starter, witness = FakeStarter({0: ([], None), 1: ([], None)}), Watching()
    link.give(Abort(attempt=1, reason="a peer failed", stacks=hung))
    supervise(starter, link, tmp_path, witness=witness)
    assert (("stacks", (0, 1)) in witness.story) is hung
