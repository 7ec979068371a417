"""Whatever happens in whatever order: nothing is lost, held twice, or unaccounted for."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.ledger.machine import Machine, template

# The memory file system where there is one: what is tested here is what is written, not the disk.
_BASE = "/dev/shm" if Path("/dev/shm").is_dir() else None
_READY = tempfile.TemporaryDirectory(dir=_BASE)
_TEMPLATE: list[Path] = []

small, some = st.integers(0, 11), st.floats(0.0, 20.0)


def _ready() -> Path:
    if not _TEMPLATE:
        _TEMPLATE.append(template(Path(_READY.name)))
    return _TEMPLATE[0]


class Conservation(RuleBasedStateMachine):
    """Steps of `machine.Machine`, chosen and shrunk by hypothesis."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=_BASE)
        self.machine = Machine(Path(self.folder.name), _ready())

    @rule(sizes=small, queue=small, tenant=small, priority=small, work_s=st.integers(1, 90), known=st.booleans())
    def submit(self, sizes, queue, tenant, priority, work_s, known):
        self.machine.submit(sizes, queue, tenant, priority, work_s, known)

    @rule(seconds=some)
    def tick(self, seconds):
        self.machine.tick(seconds)

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 7.0]))
    def tick_again(self, seconds):
        self.machine.tick(seconds)

    @rule(job=small)
    def cancel(self, job):
        self.machine.cancel(job)

    @rule(job=small)
    def pause(self, job):
        self.machine.pause(job)

    @rule(job=small)
    def resume(self, job):
        self.machine.resume(job)

    @rule(job=small, workers=st.sampled_from([None, None, 1, 2, 4, 8]))
    def pin(self, job, workers):
        self.machine.pin(job, workers)

    @rule(at=small, state=small)
    def node(self, at, state):
        self.machine.node(at, state)

    @rule(job=small, failed=st.booleans())
    def kill(self, job, failed):
        self.machine.kill(job, failed)

    @rule(reachable=st.booleans())
    def sight(self, reachable):
        self.machine.sight(reachable)

    @rule(seconds=st.sampled_from([-3600.0, -5.0, 5.0, 3600.0]))
    def jump(self, seconds):
        self.machine.jump(seconds)

    @rule()
    def restart(self):
        self.machine.restart()

    @rule(point=small)
    def crash(self, point):
        self.machine.crash(point)

    @invariant()
    def laws_hold(self):
        self.machine.check()

    def teardown(self):
        try:
            self.machine.finish()
        finally:
            self.machine.world.ledger.database.close()
            self.folder.cleanup()


# 125 histories of up to 80 steps, each step followed by every law. tests/benchmarks/conservation.py plays a million.
Conservation.TestCase.settings = settings(
    max_examples=125, stateful_step_count=80, deadline=None, suppress_health_check=list(HealthCheck)
)
TestConservation = Conservation.TestCase
