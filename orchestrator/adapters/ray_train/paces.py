"""Rounds of what ranks tell of their own speed: when each has spoken, the policy is asked who is slow. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from jobs.train.messages import Pace as Told
from orchestrator.adapters.ray_train.events import Straggler
from orchestrator.adapters.ray_train.protocol import AttemptPlan, Said
from orchestrator.policy.stragglers import Pace, StragglerRules, StragglerState, name_stragglers

RULES = StragglerRules()


class Paces:
    """Of one attempt: a new group is measured anew."""

    def __init__(self, rules: StragglerRules = RULES) -> None:
        self._rules = rules
        self._state = StragglerState()
        self._round: dict[int, Told] = {}
        self._ends: deque[int] = deque(maxlen=rules.rounds + 1)

    def hear(self, plan: AttemptPlan, said: Said, told: Told) -> Iterator[Straggler]:
        """A rank has spoken; a round is over once all have."""
        if not self._ends:
            self._ends.append(plan.job.start_step)
        before = self._round.get(said.rank)
        if before is not None:  # it speaks twice while another is silent yet: both count
            told = Told(step=told.step, passes=before.passes + told.passes, seconds=before.seconds + told.seconds)
        self._round[said.rank] = told
        if len(self._round) == plan.world_size:
            yield from self._judge(plan, said)

    def _judge(self, plan: AttemptPlan, said: Said) -> Iterator[Straggler]:
        paces = [
            Pace(rank=rank, node=plan.nodes[rank // plan.ranks_per_worker], pass_s=told.seconds / told.passes)
            for rank, told in self._round.items()
        ]
        self._ends.append(max(told.step for told in self._round.values()))
        self._round = {}
        named, self._state = name_stragglers(paces, self._state, self._rules)
        for one in named:
            yield Straggler(
                at_s=said.at_s,
                attempt=plan.attempt,
                rank=one.rank,
                node_id=one.node,
                ratio=one.ratio,
                steps=self._ends[-1] - self._ends[0],
                over=one.over,
            )
