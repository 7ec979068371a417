"""The driver's decisions, with a hub and a clock by hand: planned restarts cost nothing, failures are counted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from jobs.train.config import RestoreFrom
from jobs.train.messages import Checkpoint, Pace, Phase, Snapshot, Step, Stop, encode
from orchestrator.adapters.ray_train.capacity import NodeView
from orchestrator.adapters.ray_train.driver import Driver
from orchestrator.adapters.ray_train.driver_ports import DriverConfig, NoStackFolder, Surroundings
from orchestrator.adapters.ray_train.events import (
    AttemptClosed,
    AttemptOpened,
    Cause,
    Event,
    Noticed,
    Outcome,
    Part,
    Remark,
    Snapshotted,
    StacksTaken,
    StallPart,
    Status,
    StopAsked,
    Straggler,
)
from orchestrator.adapters.ray_train.explain import deaths, explain
from orchestrator.adapters.ray_train.governor import Bounds, Change, Governor
from orchestrator.adapters.ray_train.journal import OpenAttempt
from orchestrator.adapters.ray_train.lease import Lease
from orchestrator.adapters.ray_train.protocol import (
    Abort,
    Announced,
    AttemptPlan,
    GroupIdle,
    GroupPlaced,
    GroupStarting,
    Held,
    Joined,
    Leaving,
    Left,
    RunOver,
    Said,
    StacksOf,
    Tell,
)
from orchestrator.adapters.ray_train.retries import (
    Failure,
    GiveUp,
    Retry,
    RetryBudget,
    RetryState,
    after_failure,
)
from orchestrator.adapters.ray_train.run import HABITS
from orchestrator.adapters.ray_train.sizes import Size
from orchestrator.adapters.ray_train.stack_files import KEPT_FILES, StackFiles
from orchestrator.adapters.ray_train.stacks import RankStack
from orchestrator.policy.batch_plan import BatchPlan
from tests.contract.ray_train_fakes import JOB, FakeHub, plan


@dataclass
class World:
    """A driver and everything around it: cluster, agents, saved state, workers being warmed."""

    hub: FakeHub = field(default_factory=FakeHub)
    events: list[Event] = field(default_factory=list)
    size: Size | str = field(default_factory=lambda: Size(world_size=2, nodes=("n", "n")))
    restore: RestoreFrom | None = None
    stop: int = 0
    now_s: float = 100.0
    failures: int = 3
    alive: frozenset[str] = frozenset({"n"})
    draining: frozenset[str] = frozenset()
    trouble: str = ""
    warming_up: bool = False
    wanted_change: Change | None = None
    warmed: bool | None = None
    secured: list[int] = field(default_factory=list)
    told: list[frozenset[str]] = field(default_factory=list)
    begun: list[tuple[str, ...]] = field(default_factory=list)
    left: list[frozenset[str]] = field(default_factory=list)
    refusals: list[set[str]] = field(default_factory=list)
    sizing: Any = None
    stacks: Any = field(default_factory=NoStackFolder)
    warm_requests: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.driver = Driver(
            DriverConfig(
                job=JOB,
                ranks_per_worker=1,
                first_attempt=1,
                first_cause=Cause.START,
                budget=RetryBudget(failures=self.failures, preemptions=None),
            ),
            Surroundings(
                hub=self.hub, sizing=self.sizing or self, agents=self, state=self, warming=self, stacks=self.stacks
            ),
            emit=self.events.append,
            wants_stop=lambda: self.stop,
            now_s=lambda: self.now_s,
        )

    def look(self) -> frozenset[str]:
        return self.alive

    def staying(self) -> frozenset[str]:
        return self.alive - self.draining

    def notices(self, nodes: Collection[str], now_s: float) -> list[Noticed]:
        return [Noticed(at_s=now_s, node_id=node, deadline_s=30.0) for node in sorted(self.draining)]

    def refused(self, nodes: Collection[str], now_s: float) -> None:
        self.refusals.append(set(nodes))

    def start_size(self, held: Mapping[str, int], ready: Collection[str], now_s: float) -> Size | str:
        return self.size

    def change(self, plan: AttemptPlan, held: object, ready: object, progress: object, now_s: float) -> Change | None:
        return self.wanted_change

    def hosts(self) -> frozenset[str]:
        return self.alive

    def keep_up(self, alive: Collection[str], wanted: Collection[str], hosts: Collection[str]) -> None:
        pass

    def unreachable(self, nodes: Collection[str]) -> frozenset[str]:
        return frozenset(nodes) - self.alive

    def ready(self) -> frozenset[str]:
        return self.alive

    def is_warming(self) -> bool:
        return self.warming_up

    def announced(self, announced: Announced) -> None:
        self.draining = self.draining | {announced.node_id}

    def drained(self, nodes: Collection[str]) -> None:
        self.left.append(frozenset(nodes))

    def restore_point(self) -> RestoreFrom | None:
        return self.restore

    def begin(
        self, attempt: int | tuple[str, ...], world_size: int, leaving: object = (), members: Collection[str] = ()
    ) -> None:
        if isinstance(attempt, tuple):
            self.warm_requests.append(attempt)
        else:
            self.begun.append(tuple(members))

    def tell(self, leaving: Collection[str]) -> None:
        self.told.append(frozenset(leaving))

    def secure(self, step: int, give_up: Callable[[], bool]) -> bool:
        self.secured.append(step)
        return True

    def committed(self, at_s: float) -> Iterator[Event]:
        return iter(())

    def news(self, step: int, at_s: float) -> Iterator[Event]:
        return iter(())

    def outcome(self) -> bool | None:
        return self.warmed

    def start(self, attempt: int = 1, *, steps: int = 1) -> None:
        """Bring attempt `attempt` up to its first steps."""
        self.driver.tick()
        plan = self.plan
        assert plan.attempt == attempt
        self.driver.read([GroupStarting(at_s=self.now_s, attempt=attempt)])
        self.driver.read([GroupPlaced(at_s=self.now_s + 1, attempt=attempt)])
        joined = [
            Joined(attempt=attempt, worker=w, node_id=f"n{w}", at_s=self.now_s + 2) for w in range(plan.num_workers)
        ]
        self.driver.read(joined)
        first = plan.job.start_step + 1
        self.driver.read([self.said(attempt, 0, step(number)) for number in range(first, first + steps)])

    @property
    def plan(self) -> AttemptPlan:
        last = self.hub.offers[-1]
        assert isinstance(last, AttemptPlan), last
        return last

    def said(self, attempt: int, rank: int, message: Step | Phase | Snapshot) -> Said:
        return Said(attempt=attempt, rank=rank, at_s=self.now_s + 3, line=encode(message))

    def leave(self, how: Leaving, attempt: int = 1, *, steps: int = 0, kind: str = "", workers: int = 2) -> None:
        self.driver.read(
            [
                Left(attempt=attempt, worker=w, node_id=f"n{w}", at_s=self.now_s + 4, how=how, step=steps, kind=kind)
                for w in range(workers)
            ]
        )

    def idle(self, **kwargs: object) -> None:
        self.driver.read([GroupIdle(at_s=self.now_s + 5, **kwargs)])  # type: ignore[arg-type]

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


def step(number: int) -> Step:
    return Step(step=number, loss=1.0, lr=0.1, grad_norm=1.0, tokens=8, step_s=0.5, hash_hi=0, hash_lo=0, mfu=0.0)


def test_only_the_keepers_beside_its_own_ranks_are_waited_for() -> None:
    world = World(alive=frozenset({"n", "far"}))
    world.idle()
    world.start()
    assert world.begun == [("n", "n")]


def test_the_first_attempt_starts_when_the_controller_asks() -> None:
    world = World()
    world.driver.tick()
    assert not world.hub.offers
    world.idle()
    world.start()
    assert (world.plan.world_size, world.plan.job.start_step, world.plan.job.restore) == (2, 0, None)
    assert world.driver.status is Status.RUNNING


def test_a_planned_stop_is_never_charged() -> None:
    world = World(failures=0)
    world.idle()
    world.start()
    for attempt in range(1, 6):
        world.driver.ask_to_stop(Cause.GROW, "")
        assert world.hub.orders[-1] == Tell(attempt=attempt, line=encode(Stop("grow")))
        world.leave(Leaving.STOPPED, attempt, steps=attempt)
        world.restore = RestoreFrom(step=attempt, keepers=False)
        world.idle(error="WorkerGroupError")
        world.start(attempt + 1)
        assert world.plan.job.start_step == attempt
    assert [event.outcome for event in world.of(AttemptClosed)] == [Outcome.PLANNED] * 5
    assert [event.cause for event in world.of(AttemptOpened)] == [Cause.START] + [Cause.GROW] * 5


def test_failures_without_progress_end_the_run_with_the_reason() -> None:
    world = World(failures=1)
    world.idle()
    for attempt in (1, 2):
        world.start(attempt)
        world.leave(Leaving.FAILED, attempt, kind="killed", workers=1)
        world.idle(error="WorkerGroupError")
        world.now_s += 1000
    assert isinstance(world.hub.offers[-1], RunOver)
    assert "2 failures without progress" in world.hub.offers[-1].error


def test_no_order_is_given_before_every_worker_has_joined() -> None:
    world = World()
    world.idle()
    world.driver.tick()
    world.stop = 1
    world.driver.tick()
    assert not world.hub.orders


def test_ctrl_c_stops_in_order_and_ends_the_run_in_peace() -> None:
    world = World()
    world.idle()
    world.start()
    world.stop = 1
    world.driver.tick()
    world.driver.tick()
    assert [event.cause for event in world.of(StopAsked)] == [Cause.INTERRUPT]
    world.leave(Leaving.STOPPED, steps=1)
    world.idle(error="WorkerGroupError")
    assert world.hub.offers[-1] == RunOver()


def test_ctrl_c_twice_does_not_wait() -> None:
    world = World()
    world.idle()
    world.start()
    world.stop = 1
    world.driver.tick()
    world.stop = 2
    world.driver.tick()
    assert isinstance(world.hub.orders[-1], Abort)


def test_a_stop_that_hangs_is_cut_short() -> None:
    world = World()
    world.idle()
    world.start()
    world.driver.ask_to_stop(Cause.SHRINK, "")
    world.now_s += 1000
    world.driver.tick()
    assert isinstance(world.hub.orders[-1], Abort)
    assert world.hub.orders[-1].stacks


def test_stacks_that_came_before_the_end_of_a_group_are_kept_and_told_first(tmp_path: Path) -> None:
    world = World(stacks=StackFiles(tmp_path / "stacks"))
    world.idle()
    world.start()
    stack = RankStack(rank=1, pid=7, how="py-spy", text="Thread 7: waits")
    said = StacksOf(attempt=1, worker=1, node_id="a" * 40, stacks=(stack,))
    world.driver.read([said, replace(lost("hang", 0), attempt=1)])
    world.idle()
    (taken,) = world.of(StacksTaken)
    assert isinstance(taken, StacksTaken)
    assert world.events.index(taken) < next(at for at, one in enumerate(world.events) if isinstance(one, AttemptClosed))
    text = Path(taken.path).read_text()
    assert f"=== rank 1 on node {'a' * 12}, in step {taken.step + 1}, process 7 (py-spy)" in text
    assert "Thread 7: waits" in text
    assert Path(taken.path).stat().st_mode & 0o777 == 0o600


def test_only_the_newest_stacks_are_kept_and_a_full_disk_fails_nothing(tmp_path: Path) -> None:
    files = StackFiles(tmp_path / "stacks")
    for number in range(KEPT_FILES + 3):
        assert files.keep(1, 0, [], 100.0 + number, "") is not None
    assert len(list((tmp_path / "stacks").iterdir())) == KEPT_FILES
    (tmp_path / "file").touch()
    assert StackFiles(tmp_path / "file").keep(1, 0, [], 100.0, "") is None


def test_too_little_room_waits_and_says_so_once() -> None:
    world = World(size="there is room for 1 workers; 2 are needed")
    world.idle()
    world.driver.tick()
    world.driver.tick()
    assert not world.hub.offers
    assert [event.detail for event in world.events if event.status is Status.WAITING] == [world.size]  # type: ignore[union-attr]
    world.size = Size(world_size=2, nodes=("n", "n"))
    world.driver.tick()
    assert world.plan.attempt == 1


def test_a_snapshot_counts_when_every_rank_has_sealed_it() -> None:
    world = World()
    world.idle()
    world.start()
    world.driver.read([world.said(1, 0, Snapshot(5, 100, 0.1))])
    assert not world.of(Snapshotted)
    world.driver.read([world.said(1, 1, Snapshot(5, 300, 0.2))])
    (event,) = world.of(Snapshotted)
    assert (event.step, event.num_bytes, event.seconds) == (5, 400, 0.2)  # type: ignore[union-attr]


def test_parts_of_a_stall_are_those_of_the_slowest_rank() -> None:
    world = World()
    world.idle()
    world.driver.tick()
    world.driver.read([GroupStarting(at_s=100.0, attempt=1), GroupPlaced(at_s=101.0, attempt=1)])
    world.driver.read([Joined(attempt=1, worker=w, node_id="n", at_s=103.0 + w) for w in (0, 1)])
    world.driver.read([world.said(1, 0, Phase("imports", 0.2)), world.said(1, 1, Phase("imports", 0.9))])
    world.driver.read([world.said(1, 0, step(1))])
    parts = {event.part: event.seconds for event in world.of(StallPart)}  # type: ignore[union-attr]
    assert parts == {Part.PLACEMENT: 1.0, Part.PROCESS_START: 3.0, Part.IMPORTS: 0.9}


def lost(kind: str, worker: int) -> Left:
    return Left(attempt=1, worker=worker, node_id="n", at_s=float(worker), how=Leaving.FAILED, kind=kind, detail=kind)


@pytest.mark.parametrize(
    ("kinds", "lost_nodes", "cause", "detail"),
    [
        (["lost_peer", "killed"], (), Cause.WORKER_FAILURE, "killed"),
        (["lost_peer", "user_code"], (), Cause.WORKER_FAILURE, "user_code"),
        (["hang", "lost_peer"], (), Cause.HANG, "hang"),
        (["lost_peer"], ("abcdef",), Cause.NODE_LOSS, "lost node abcdef"),
        ([], (), Cause.START_FAILURE, "the workers did not start"),
    ],
)
def test_the_root_cause_explains_what_its_peers_complain_of(
    kinds: list[str], lost_nodes: tuple[str, ...], cause: Cause, detail: str
) -> None:
    attempt = OpenAttempt(plan=plan(), opened_at_s=0.0)
    attempt.left = {worker: lost(kind, worker) for worker, kind in enumerate(kinds)}
    attempt.joined = set(attempt.left)
    found = explain(attempt, GroupIdle(at_s=1.0), lost_nodes)
    assert (found[0], found[2]) == (cause, detail)


BUDGET = RetryBudget(failures=2, preemptions=None)


def failure(cause: Cause = Cause.WORKER_FAILURE, kind: str = "killed", start: int = 0, steps: int = 1) -> Failure:
    return Failure(cause=cause, kind=kind, start_step=start, num_steps=steps)


def test_progress_renews_the_budget() -> None:
    state = RetryState()
    for start in range(20):
        verdict, state = after_failure(BUDGET, state, failure(start=start))
        assert verdict == Retry(delay_s=0.0)


def test_lost_capacity_has_a_budget_of_its_own() -> None:
    state = RetryState()
    for _ in range(50):
        verdict, state = after_failure(BUDGET, state, failure(Cause.NODE_LOSS, "node_loss"))
        assert isinstance(verdict, Retry)
    assert state.failures == 0


@pytest.mark.parametrize(
    ("kind", "steps", "gives_up"), [("nan", 9, True), ("user_code", 0, True), ("killed", 0, False)]
)
def test_what_would_happen_again_is_not_tried_again(kind: str, steps: int, gives_up: bool) -> None:
    verdict, _ = after_failure(BUDGET, RetryState(), failure(kind=kind, steps=steps))
    assert isinstance(verdict, GiveUp) is gives_up


def test_waits_double_up_to_a_minute() -> None:
    state, delays = RetryState(), []
    for _ in range(9):
        verdict, state = after_failure(RetryBudget(failures=99, preemptions=None), state, failure())
        assert isinstance(verdict, Retry)
        delays.append(verdict.delay_s)
    assert delays == [0, 1, 2, 4, 8, 16, 32, 60, 60]


def grown(world: World, *nodes: str) -> Change:
    return Change(cause=Cause.GROW, size=Size(world_size=len(nodes), nodes=nodes), detail="more room")


def running_world(**kwargs: object) -> World:
    world = World(**kwargs)  # type: ignore[arg-type]
    world.idle()
    world.start()
    world.driver.read([Held(at_s=1.0, workers={"n": 2})])
    return world


def test_growth_touches_the_running_group_only_when_its_new_workers_are_up() -> None:
    world = running_world()
    world.wanted_change = grown(world, "n", "n", "m")
    world.driver.tick()
    world.driver.tick()
    assert world.warm_requests == [("m",)]
    assert not world.hub.orders
    world.warmed = True
    world.driver.tick()
    assert world.hub.orders == [Tell(attempt=1, line=encode(Stop("grow")))]


def test_room_that_was_not_there_leaves_the_group_alone() -> None:
    world = running_world()
    world.wanted_change, world.warmed = grown(world, "n", "n", "m"), False
    world.driver.tick()
    world.wanted_change = None
    world.driver.tick()
    assert not world.hub.orders
    assert world.refusals == [{"m"}]
    assert len(world.of(AttemptOpened)) == 1


def test_a_notice_ends_waiting_for_growth() -> None:
    world = running_world()
    world.wanted_change = grown(world, "n", "n", "m")
    world.driver.tick()
    world.draining = frozenset({"n"})
    world.wanted_change = Change(cause=Cause.NOTICE, size=Size(world_size=1, nodes=("m",)), detail="n leaves")
    world.now_s += 10
    world.driver.tick()
    assert world.hub.orders == [Tell(attempt=1, line=encode(Stop("notice")))]
    assert world.told == [frozenset({"n"})]


def test_below_the_minimum_the_state_goes_to_storage_and_the_run_waits() -> None:
    world = running_world()
    world.wanted_change = Change(cause=Cause.NOTICE, size=None, detail="1 usable worker is below the minimum of 2")
    world.driver.tick()
    world.leave(Leaving.STOPPED, steps=1)
    world.size = "there is room for 1 workers; 2 are needed"
    world.idle(error="WorkerGroupError")
    world.driver.tick()
    assert world.secured == [0]
    assert world.driver.status is Status.WAITING


def test_nothing_starts_before_the_nodes_are_warm() -> None:
    world = World(warming_up=True)
    world.idle()
    world.driver.tick()
    assert not world.hub.offers
    world.warming_up = False
    world.driver.tick()
    assert world.plan.attempt == 1


def test_a_node_that_does_not_answer_is_lost_whatever_the_cluster_still_thinks() -> None:
    world = running_world(failures=0)
    world.leave(Leaving.FAILED, kind="lost_peer", workers=1)
    world.idle(error="WorkerGroupError", silent_nodes=("gone",))
    (closed,) = world.of(AttemptClosed)
    assert closed.cause is Cause.NODE_LOSS  # type: ignore[union-attr]
    world.driver.tick()
    assert world.plan.attempt == 2


def test_keepers_hear_of_nodes_that_come_in_the_middle_of_an_attempt() -> None:
    world = running_world()
    world.driver.tick()
    assert world.told == []
    world.alive = frozenset({"n", "m"})
    world.now_s += 10
    world.driver.tick()
    assert world.told == [frozenset()]


def test_a_notice_heard_by_a_node_is_looked_at_at_once() -> None:
    world = running_world()
    world.driver.tick()
    world.alive = frozenset({"n", "m"})
    world.driver.read([Announced(at_s=world.now_s, node_id="n", ends_at_s=world.now_s + 30, detail="file: go")])
    world.driver.tick()
    assert [event.node_id for event in world.of(Noticed)] == ["n"]  # type: ignore[union-attr]
    assert world.told == [frozenset({"n"})]


def test_a_mere_warning_is_told_and_moves_nothing() -> None:
    world = running_world()
    world.driver.read([Announced(at_s=1.0, node_id="n", ends_at_s=None, detail="aws: risk", advisory=True)])
    world.driver.tick()
    assert [event.detail for event in world.of(Remark)] == ["node n: aws: risk"]  # type: ignore[union-attr]
    assert not world.draining


def test_a_node_may_go_once_the_next_attempt_has_made_a_step_without_it() -> None:
    world = running_world()
    world.alive, world.draining = frozenset({"n", "m"}), frozenset({"n"})
    world.driver.ask_to_stop(Cause.NOTICE, "")
    world.leave(Leaving.STOPPED, steps=1)
    world.idle(error="WorkerGroupError")
    world.now_s, world.left, world.size = 200.0, [], Size(world_size=1, nodes=("m",))
    world.driver.tick()
    assert world.left == []
    world.driver.read([world.said(2, 0, step(2))])
    world.now_s += 10
    world.driver.tick()
    assert world.left == [frozenset({"n"})]


def test_a_notice_that_may_wait_for_others_makes_the_state_safe_at_once_and_once() -> None:
    world = running_world()
    for draining in (frozenset({"n"}), frozenset[str](), frozenset[str]()):
        world.draining = draining  # the fake announces what drains at every look, the governor once
        world.now_s += 10
        world.driver.tick()
    assert world.hub.orders == [Tell(attempt=1, line=encode(Checkpoint()))]


def governed_world(*nodes: NodeView) -> tuple[World, list[NodeView]]:
    """A run of one worker on each node, under the governor and the habits of a user's run."""
    seen = list(nodes)
    bounds = Bounds(min_workers=2, max_workers=8, per_rank={"CPU": 1.0}, ranks_per_worker=1, batch=BatchPlan(64, 1))
    names = tuple(node.node_id for node in nodes)
    governor = Governor(bounds, HABITS, Lease, lambda: tuple(seen))
    world = World(size=Size(world_size=len(names), nodes=names), alive=frozenset(names), sizing=governor)
    world.idle()
    world.start()
    world.driver.read([Held(at_s=world.now_s, workers=dict.fromkeys(names, 1))])
    return world, seen


def busy(name: str, drain: float | None = None) -> NodeView:
    return NodeView(node_id=name, free={"CPU": 0.0}, total={"CPU": 1.0}, drain_deadline_s=drain)


def free(name: str) -> NodeView:
    return NodeView(node_id=name, free={"CPU": 1.0}, total={"CPU": 1.0})


def stops(world: World) -> list[tuple[float, str]]:
    return [(event.at_s, event.cause.value) for event in world.of(StopAsked)]  # type: ignore[union-attr]


def pass_time(world: World, seconds: int) -> None:
    for _ in range(seconds):
        world.now_s += 1.0
        world.driver.tick()


def test_two_drains_five_seconds_apart_cause_one_restart() -> None:
    world, seen = governed_world(*(free(name) for name in "abcd"))
    seen[:] = [busy(name) for name in "abcd"]
    began_s = world.now_s
    seen[3] = busy("d", drain=began_s + 120)
    pass_time(world, 5)
    seen[2] = busy("c", drain=began_s + 125)
    pass_time(world, 30)
    assert stops(world) == [(began_s + 11, "notice")]
    world.leave(Leaving.STOPPED, steps=1, workers=4)
    world.idle(error="WorkerGroupError")
    world.driver.tick()
    assert world.plan.nodes == ("a", "b")


def test_a_near_deadline_is_not_waited_out_for_others() -> None:
    world, seen = governed_world(*(free(name) for name in "abc"))
    began_s = world.now_s
    seen[:] = [busy("a"), busy("b"), busy("c", drain=began_s + 8)]
    pass_time(world, 5)
    assert stops(world) == [(began_s + 3, "notice")]


def speaks(world: World, rank: int, number: int, seconds: float) -> Said:
    return Said(attempt=1, rank=rank, at_s=world.now_s, line=encode(Pace(step=number, passes=10, seconds=seconds)))


def test_a_rank_that_holds_the_others_up_is_named_and_let_go() -> None:
    world = World(size=Size(world_size=3, nodes=("n", "m", "m")))
    world.idle()
    world.start()
    for number in range(1, 9):
        slow_s = 9.0 if number < 5 else 5.0
        for rank, seconds in ((2, slow_s), (0, 5.0), (1, 5.5)):
            world.driver.read([speaks(world, rank, 10 * number, seconds)])
    named = [one for one in world.of(Straggler) if isinstance(one, Straggler)]
    assert [(one.rank, one.node_id, one.steps, one.over) for one in named] == [(2, "m", 30, False), (2, "m", 30, True)]
    assert named[0].ratio == pytest.approx(9.0 / 5.5)


def test_a_rank_that_speaks_twice_in_a_round_is_counted_whole() -> None:
    world = World()
    world.idle()
    world.start()
    for number in range(1, 4):
        world.driver.read([speaks(world, 0, number, 1.0), speaks(world, 0, number, 3.0)])
        world.driver.read([speaks(world, 1, number, 1.0)])
    (named,) = world.of(Straggler)
    assert isinstance(named, Straggler)
    assert (named.rank, named.ratio) == (0, pytest.approx(2.0))


@pytest.mark.parametrize(
    ("kinds", "silent", "lost_nodes", "died"),
    [
        (["killed", "lost_peer"], (), (), ["n"]),
        (["user_code", "lost_peer"], (), (), []),
        (["hang"], (), (), []),
        ([], ("m",), (), ["m"]),
        (["killed"], ("n",), ("n",), []),
    ],
    ids=["by-itself", "the-jobs-own-code", "a-hang", "silent", "with-its-node"],
)
def test_deaths_are_told_of_nodes_that_go_on(
    kinds: list[str], silent: tuple[str, ...], lost_nodes: tuple[str, ...], died: list[str]
) -> None:
    attempt = OpenAttempt(plan=plan(), opened_at_s=0.0)
    attempt.left = {worker: lost(kind, worker) for worker, kind in enumerate(kinds)}
    found = list(deaths(attempt, GroupIdle(at_s=1.0, silent_nodes=silent), lost_nodes))
    assert [one.node_id for one in found] == died
