"""Random histories of saving, mirroring, crashing and losing nodes, with what must hold after every step of them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from jobs.train.keeper.faults import Point
from jobs.train.keeper.judge import KEPT_COMPLETE, Source
from jobs.train.keeper.rank_service import RefusedError
from jobs.train.keeper.restore import plan_restore
from jobs.train.keeper.values import PartKey, SnapshotKey, Verdicts
from tests.train.keeper.world import RUN, Crash, CrashAt, World, content

MOST_NODES = 4
INTERVAL = 20


class History(RuleBasedStateMachine):
    """One run on a changing set of nodes.

    `whole`: snapshots of which every rank sealed its part, and of which no loss of a node has taken one since. As many
    must be there, or newer ones in their place.
    """

    roomy = True

    @initialize(nodes=st.integers(1, MOST_NODES), world_size=st.integers(1, 5))
    def start(self, nodes, world_size):
        self.root = Path(tempfile.mkdtemp(prefix="tide-test-"))
        # Own and mirrored parts of five ranks, all on one node at worst: three slots, or too few of them.
        slots = 3 * 5 * 2 if self.roomy else 9
        self.world = World(self.root, nodes=nodes, limit_bytes=slots * 256)
        self.attempt, self.world_size, self.step = 0, world_size, 0
        self.whole: set[SnapshotKey] = set()
        self.pressed = False
        self.plan = self.world.begin(0, world_size)
        self.pending: dict[PartKey, object] = {}

    # What ranks do.

    @rule(final=st.sampled_from([False, False, False, True]))
    def all_ranks_save(self, final):
        key = self._next_key()
        if not self.roomy or self._is_crowded():
            # It may take the room of what is whole but not known to be: here the news may have had no time to come.
            known = set.intersection(*(set(self._verdicts(name).complete) for name in self.world.keepers))
            self.whole = {old for old in self.whole if known and old <= max(known)}
        self.pressed |= final
        for rank in range(self.world_size):
            if not self._save(PartKey(snapshot=key, rank=rank), final=final):
                return
        self.whole.add(key)

    @rule(num=st.integers(1, 4))
    def some_ranks_save_and_one_dies_while_writing(self, num):
        key = self._next_key()
        for rank in range(min(num, self.world_size) - 1):
            if not self._save(PartKey(snapshot=key, rank=rank)):
                return
        victim = PartKey(snapshot=key, rank=min(num, self.world_size) - 1)
        keeper = self.world.keepers.get(self.world.node_of(victim.rank))
        try:
            owner = self.world.alloc(victim) if keeper else None
        except (RefusedError, Crash):
            owner = None
        if keeper and owner:
            keeper.rank_service.gone(owner)
        self.new_attempt(self.world_size)

    # What goes on in the background.

    @rule(data=st.data(), times=st.integers(1, 6))
    def background_work(self, data, times):
        for name in data.draw(st.lists(st.sampled_from(sorted(self.world.keepers)), min_size=1, max_size=times)):
            self.world.pump(name)
        self._revive()

    @rule()
    def quiet_time(self):
        self.world.now_s += 20
        self.world.settle()
        self._revive()

    # What goes wrong.

    @rule(data=st.data())
    def keeper_is_killed_and_started_again(self, data):
        self.world.kill_keeper(data.draw(st.sampled_from(sorted(self.world.keepers))))
        self._revive()

    @rule(data=st.data(), point=st.sampled_from([p for p in Point if not p.startswith("flush")]), nth=st.integers(1, 3))
    def keeper_will_crash(self, data, point, nth):
        name = data.draw(st.sampled_from(sorted(self.world.keepers)))
        self.world.kill_keeper(name)
        self.world.boot(name, CrashAt(point, nth))
        self.world.tell(name, self.plan)
        self._revive()

    @precondition(lambda self: len(self.world.keepers) > 1)
    @rule(data=st.data(), world_size=st.integers(1, 5))
    def node_is_lost(self, data, world_size):
        promised = max(keeper.safe_step(RUN) for keeper in self.world.keepers.values())
        self.world.kill_node(data.draw(st.sampled_from(sorted(self.world.keepers))))
        self.whole = {key for key in self.whole if self._is_present(key)}
        restored = plan_restore(self.world.network, sorted(self.world.keepers), RUN)
        assert restored.step >= promised, "a safe step was lost with one node"
        self.new_attempt(world_size)

    @precondition(lambda self: len(self.world.keepers) < MOST_NODES)
    @rule(world_size=st.integers(1, 5))
    def node_joins(self, world_size):
        free = next(name for name in "abcd" if name not in self.world.keepers)
        self.world.boot(free)
        self.new_attempt(world_size)

    @rule(world_size=st.integers(1, 5))
    def new_attempt(self, world_size):
        """Restore and go on, the way a run does: what was complete by then is kept."""
        self._revive()
        plan = plan_restore(self.world.network, sorted(self.world.keepers), RUN)
        key = next(iter(plan.places.values())).key.snapshot if plan.source is Source.KEEPERS else None
        kept = sorted({*plan.older, *([key] if key else [])})
        self.attempt, self.world_size = self.attempt + 1, world_size
        self.step = max(plan.step, key.step if key else 0)
        self.whole = {found for found in self.whole if found in kept}
        self.plan = self.world.begin(self.attempt, world_size, kept=tuple(kept))
        self._revive()

    # What must hold.

    @invariant()
    def memory_stays_within_the_limit(self):
        for keeper in self.world.keepers.values():
            on_disk = sum(path.stat().st_size for path in keeper.config.folder.glob("*.seg"))
            assert on_disk <= keeper.store.used_bytes <= self.world.limit_bytes

    @invariant()
    def every_listed_part_is_the_one_that_was_written(self):
        for keeper in self.world.keepers.values():
            for part in keeper.store.sealed():
                assert bytes(part.data()) == content(part.meta.key, self.world.part_bytes)

    @invariant()
    def the_newest_complete_snapshots_are_kept(self):
        kept = 1 if self.pressed or not self.roomy else KEPT_COMPLETE
        expected = sorted(self.whole)[-kept:]
        present = [key for key in self._seen() if self._is_present(key)]
        assert sum(key >= expected[0] for key in present) >= len(expected) if expected else True

    @invariant()
    def restoring_finds_the_newest_step_of_which_every_part_survives(self):
        present = [key for key in self._seen() if self._is_present(key)]
        plan = plan_restore(self.world.network, sorted(self.world.keepers), RUN)
        assert plan.step == max((key.step for key in present), default=0)

    def teardown(self):
        if hasattr(self, "world"):
            self.world.close()
            shutil.rmtree(self.root)

    def _next_key(self) -> SnapshotKey:
        self.step += INTERVAL
        return self.world.key(self.step, self.attempt, self.world_size)

    def _save(self, part: PartKey, *, final: bool = False) -> bool:
        """Whether the rank's part is sealed; it is not if its keeper has no room or dies."""
        name = self.world.node_of(part.rank)
        try:
            self.world.seal(part, self.world.alloc(part, final=final))
        except RefusedError:
            return False
        except Crash:
            self.world.kill_keeper(name)
            self._revive()
            # It may have died right after sealing.
            return name in self.world.keepers and self.world.keepers[name].store.get(part) is not None
        return True

    def _revive(self) -> None:
        """The node agent starts a dead keeper again and tells it what is going on."""
        for name in set(self.world.names) - set(self.world.keepers):
            if (self.root / name).exists():
                self.world.boot(name)
                self.world.tell(name, self.plan)

    def _is_crowded(self) -> bool:
        """Whether some node may lack room for one more snapshot of five ranks, own and mirrored."""
        pools = [keeper.store._pool for keeper in self.world.keepers.values()]
        return any(pool.limit_bytes - pool.busy_bytes < 5 * 2 * 256 for pool in pools)

    def _verdicts(self, name: str) -> Verdicts:
        return self.world.keepers[name].runs.get(RUN).verdicts

    def _seen(self) -> set[SnapshotKey]:
        held = [part for keeper in self.world.keepers.values() for part in keeper.store.sealed()]
        return {part.meta.key.snapshot for part in held}

    def _is_present(self, key: SnapshotKey) -> bool:
        ranks = {
            part.meta.key.rank
            for keeper in self.world.keepers.values()
            for part in keeper.store.sealed()
            if part.meta.key.snapshot == key
        }
        return ranks == set(range(key.world_size))


class TightHistory(History):
    """The same with less memory than snapshots want: they are skipped, and only the newest is sure to be kept."""

    roomy = False


@pytest.mark.parametrize("machine", [History, TightHistory])
def test_random_histories_keep_every_promise(machine):
    run_state_machine_as_test(machine, settings=_settings(max_examples=30, steps=30))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("machine", [History, TightHistory])
def test_many_random_histories_keep_every_promise(machine):
    run_state_machine_as_test(machine, settings=_settings(max_examples=500, steps=50))


def _settings(max_examples: int, steps: int) -> settings:
    return settings(
        max_examples=max_examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
