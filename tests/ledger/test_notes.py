"""What jobs tell of themselves is in the books once, however often it is told and whoever leads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.ledger.notes import KINDS
from orchestrator.policy.queueing.orders import Note, NoteKind, Phase, Report
from tests.ledger.world import World, new, sqlite


def note(number: int, kind: NoteKind = NoteKind.WORKER_DIED, **data: str) -> Note:
    return Note(id=f"s-{number}", at_s=1_000_000.0, kind=kind, node="n", rank=number, data=tuple(data.items()))


def test_each_note_is_an_event_once(tmp_path: Path) -> None:
    world = World(sqlite(tmp_path))
    world.ledger.submit(new("a", (1, 2)))
    world.cycle()
    report = Report(job="a", attempt=1, phase=Phase.RUNNING, notes=(note(1, detail="killed"),))
    for _ in range(3):
        world.ledger.record((report,), now_s=world.clock.now_s())
    world.restart()
    more = replace(report, notes=(*report.notes, note(2, NoteKind.STRAGGLER)))
    for _ in range(3):
        world.ledger.record((more,), now_s=world.clock.now_s())
    events = world.ledger.read.told("a", KINDS)
    assert [(one.kind, one.job, one.data["note"], one.data["node"], one.data["rank"]) for one in events] == [
        ("worker-died", "a", "s-1", "n", 1),
        ("straggler", "a", "s-2", "n", 2),
    ]
    assert events[0].data["detail"] == "killed"
    world.ledger.database.close()


def test_notes_of_an_end_are_kept_and_those_of_a_forgotten_job_are_not(tmp_path: Path) -> None:
    world = World(sqlite(tmp_path))
    world.ledger.submit(new("a", (1, 2)))
    world.cycle()
    end = Report(job="a", attempt=1, phase=Phase.SUCCEEDED, notes=(note(1),))
    for _ in range(2):
        world.ledger.record((end,), now_s=world.clock.now_s())
    assert len(world.ledger.read.told("a", KINDS)) == 1
    stranger = Report(job="stranger", attempt=1, phase=Phase.RUNNING, notes=(note(1),))
    world.ledger.record((stranger,), now_s=world.clock.now_s())
    assert len(world.ledger.read.events_of(KINDS, after=0, until=10**9)) == 1
    world.ledger.database.close()
