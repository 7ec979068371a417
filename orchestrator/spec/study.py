"""The kind Study: a search over keys of a training job, with a budget."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.base import Document, SpecModel, repeated, without_effect
from orchestrator.spec.fields import Many, Name, OneOf, Seed, Word
from orchestrator.spec.notify import Hook, hook_findings
from orchestrator.spec.problems import Code, Finding
from orchestrator.spec.search import Concurrency, Repeat, Scheduler, Searcher, Stop, StudyBudget
from orchestrator.spec.space import LogUniform, Space, Uniform
from orchestrator.spec.space_check import space_findings
from orchestrator.spec.train_job import TrainJobSpec, past_deadline


class StudySpec(SpecModel):
    """What is varied, how it is searched, and when that ends."""

    template: TrainJobSpec
    """The job of a trial, as a TrainJob's spec; the space varies its keys."""
    space: Space
    """Keys of the template and what may be drawn for them."""
    searcher: Searcher
    """Who draws."""
    scheduler: Scheduler
    """Who stops early."""
    metric: Word
    """What the task reports and the study compares."""
    mode: Annotated[Literal["min", "max"], OneOf()]
    """Whether less or more of it is better."""
    concurrency: Concurrency = Field(default_factory=Concurrency)
    """Trials at once."""
    budget: StudyBudget
    """When it ends at the latest."""
    stop: Stop | None = None
    """When it ends because going on does not pay; none = only the budget ends it."""
    seed: Seed = 0
    """Decides every draw."""
    repeat: Repeat | None = None
    """Runs the best again with other seeds; none = no claim about luck is made."""
    warm_start: Many[Name] = ()
    """Earlier studies whose trials the searcher learns from."""
    notify: Many[Hook] = ()
    """Addresses that are called when the study has ended."""

    def cross_check(self) -> Iterator[Finding]:
        for found in space_findings(self.space, self.template):
            yield found.below("space")
        yield from repeated(self.warm_start, "warm_start", key="")
        yield from hook_findings(self.notify)
        yield from self._searcher()
        yield from self._scheduler()
        yield from self._template()

    def _searcher(self) -> Iterator[Finding]:
        if self.searcher.name != "tpe":
            who = "a grid" if self.searcher.name == "grid" else "a random search"
            yield from without_effect(self, ["warm_start"], f"{who} does not learn")
        if self.searcher.name != "grid":
            return
        for key, parameter in self.space.items():
            if isinstance(parameter, Uniform | LogUniform):
                want = "a grid needs a choice or an int"
                yield Finding(
                    ("space", key), Code.CONFLICT, "has no end of values", want, "Or search with tpe or random"
                )

    def _scheduler(self) -> Iterator[Finding]:
        for key in ("grace_steps", "interval_steps"):
            steps = getattr(self.scheduler, key, 0)
            if steps > self.template.steps:
                what = f"{steps} is above template.steps ({self.template.steps})"
                yield Finding(("scheduler", key), Code.MIN_ABOVE_MAX, what, "no trial would ever be judged")

    def _template(self) -> Iterator[Finding]:
        for found in without_effect(self.template, ["schedule", "after"], "a trial starts when the study says"):
            yield found.below("template")
        because = "a trial's end is told to nobody; the study's own notify is told of its end"
        for found in without_effect(self.template, ["notify"], because):
            yield found.below("template")


class Study(Document):
    """A hyperparameter search."""

    kind: Literal["Study"] = "Study"
    """What the document describes."""
    spec: StudySpec
    """What is searched and how."""

    def time_findings(self, now: dt.datetime) -> Iterator[Finding]:
        yield from past_deadline(self.spec.template.deadline, now, ("spec", "template", "deadline"))
