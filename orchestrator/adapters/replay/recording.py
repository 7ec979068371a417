"""Reads a recording of nodes: one CSV of `t_ms,event,node`, where `event` is `add` or `remove`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.sim.faults import Faults, read_text

COLUMNS = ("t_ms", "event", "node")
ADD, REMOVE = "add", "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEvent:
    """At `at_s` of the recording, a node named `node` came ("add") or went ("remove")."""

    at_s: float
    event: str
    node: str


def load_node_events(path: Path) -> tuple[NodeEvent, ...]:
    """Every event of a recording, in its order.

    Raises: UserError (exit 3) naming file, line and column of everything wrong: time that runs backwards, a node that
    comes twice or goes without having come, an event that is neither.
    """
    faults = Faults(path)
    reader = csv.reader(io.StringIO(read_text(path)))
    header = tuple(name.strip() for name in next(reader, []))
    if header != COLUMNS:
        faults.add(f"the header is {','.join(header)!r}; it must be {','.join(COLUMNS)!r}", line=1)
        faults.check()
    events: list[NodeEvent] = []
    present: set[str] = set()
    for cells in reader:
        line = reader.line_num
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(COLUMNS):
            faults.add(f"{len(cells)} cells; three are needed", line=line)
            continue
        at_ms, what, node = (cell.strip() for cell in cells)
        if not (at_ms.isascii() and at_ms.isdigit()):
            faults.add(f"{at_ms!r} is no time; whole milliseconds from 0", line=line, column="t_ms")
            continue
        event = NodeEvent(at_s=int(at_ms) / 1000, event=what, node=node)
        if events and event.at_s < events[-1].at_s:
            faults.add(f"{at_ms} is earlier than the row before; times must not fall", line=line, column="t_ms")
        _follow(event, present, line, faults)
        events.append(event)
    if not events and not faults.found:
        faults.add("no events after the header; at least one is needed")
    faults.check()
    return tuple(events)


def _follow(event: NodeEvent, present: set[str], line: int, faults: Faults) -> None:
    """Keep track of who is there."""
    if not event.node:
        faults.add("a node needs a name", line=line, column="node")
    elif event.event == ADD:
        if event.node in present:
            faults.add(f"{event.node!r} comes, and is there already", line=line, column="node")
        present.add(event.node)
    elif event.event == REMOVE:
        if event.node not in present:
            faults.add(f"{event.node!r} goes, and is not there", line=line, column="node")
        present.discard(event.node)
    else:
        faults.add(f"{event.event!r} is neither {ADD!r} nor {REMOVE!r}", line=line, column="event")


def share_of(
    events: Sequence[NodeEvent], *, share: int, seconds: float = float("inf"), remainder: int = 0
) -> list[NodeEvent]:
    """What happened to every `share`-th node in the first `seconds`; nodes are numbered in order of their coming."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(event.node for event in events))}
    return [e for e in events if numbers[e.node] % share == remainder and e.at_s <= seconds]
