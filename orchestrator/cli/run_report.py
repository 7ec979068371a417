"""A run's record and events as the values of its report page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.adapters.ray_train.events import Event, StepDone
from orchestrator.adapters.ray_train.record import Attempt, RunRecord
from orchestrator.report import Day, LadderRung, RunReport, Span, StepPoint

MAX_POINTS = 4000


def run_report(
    record: RunRecord,
    events: Iterable[Event],
    *,
    title: str,
    stages: Sequence[Span] = (),
    ladder: Sequence[LadderRung] = (),
    prompt: str = "",
    completion: str = "",
    day: Day | None = None,
    facts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> RunReport:
    """The page for one run; `stages` are spans around it (seconds from the run's first event), drawn above attempts."""
    zero_s = record.first_at_s or 0.0
    attempts = [span for attempt in record.attempts for span in _attempt_spans(attempt, record, zero_s)]
    return RunReport(
        title=title,
        summary=(*facts, *run_facts(record)),
        steps=tuple(_thinned([_point(event, zero_s) for event in events if isinstance(event, StepDone)])),
        spans=(*stages, *attempts),
        ladder=tuple(ladder),
        prompt=prompt,
        completion=completion,
        day=day,
        notes=tuple(notes),
    )


def run_facts(record: RunRecord) -> list[tuple[str, str]]:
    """What a person wants to know of a run first, as label and value."""
    values = record.to_json()
    sizes = " → ".join(str(attempt.world_size) for attempt in record.attempts)
    goodput = values["training_goodput"]
    lost = ", ".join(f"{count} by {cause}" for cause, count in values["steps_lost"].items())
    return [
        ("state", str(record.status)),
        ("steps", f"{record.steps_done:,}"),
        ("tokens", f"{values['tokens']:,}"),
        ("workers", sizes or "none"),
        ("steps lost", lost or "0"),
        ("training goodput", "–" if goodput is None else f"{goodput:.1%}"),
    ]


def _thinned(points: list[StepPoint]) -> list[StepPoint]:
    """At most about `MAX_POINTS` of them, evenly, the last one among them: a page draws no more than that apart."""
    every = max(1, -(-len(points) // MAX_POINTS))
    return [point for at, point in enumerate(points) if (len(points) - 1 - at) % every == 0]


def _point(event: StepDone, zero_s: float) -> StepPoint:
    return StepPoint(
        step=event.step,
        at_s=event.at_s - zero_s,
        loss=event.loss,
        tokens_per_s=event.num_tokens / event.step_s if event.step_s > 0 else 0.0,
        world_size=event.world_size,
    )


def _attempt_spans(attempt: Attempt, record: RunRecord, zero_s: float) -> list[Span]:
    """Start-up stall, steps, and the stall of leaving, on a lane of the attempt's own."""
    lane = f"attempt {attempt.attempt}: {attempt.cause}"
    closed_s = attempt.closed_at_s if attempt.closed_at_s is not None else record.last_at_s
    began_s = attempt.first_step_began_at_s if attempt.first_step_began_at_s is not None else closed_s
    ended_s = attempt.last_step_at_s if attempt.last_step_at_s is not None else closed_s
    workers = "1 worker" if attempt.world_size == 1 else f"{attempt.world_size} workers"
    cuts = [("start", attempt.opened_at_s, began_s, "stall"), (workers, began_s, ended_s, "useful")]
    cuts.append(("leave", ended_s, closed_s, "stall"))
    return [
        Span(lane=lane, label=label, start_s=start_s - zero_s, end_s=end_s - zero_s, kind=kind)
        for label, start_s, end_s, kind in cuts
        if end_s > start_s
    ]
