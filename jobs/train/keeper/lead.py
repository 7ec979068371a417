"""The lead of a run: one keeper that hears what every node holds and tells all of them what to make of it.

State is the last inventory of each node, so messages may be lost, repeated or late, and a lead that restarts knows
everything again as soon as every node has reported once. Work per snapshot grows linearly with the number of nodes:
reports only mark what is to be judged, judging happens once for all that have arrived.

Not thread-safe; `runs` holds the lock.
"""

from __future__ import annotations

from dataclasses import replace

from jobs.train.keeper import flush_policy
from jobs.train.keeper.flush_policy import FlushRules
from jobs.train.keeper.judge import KEPT_COMPLETE, judge
from jobs.train.keeper.values import AttemptPlan, Inventory, SnapshotKey, Verdicts


class Lead:
    """Judges one attempt."""

    def __init__(self, plan: AttemptPlan, known: Verdicts, rules: FlushRules, now_s: float) -> None:
        """`known`: what was judged before, by a lead that is dead, or by whoever planned the attempt."""
        self._plan = plan
        self._rules = rules
        self._inventories: dict[str, Inventory] = {}
        self._flush = flush_policy.begin(rules, plan.first_checkpoint_in_s, plan.committed_step, now_s)
        self._verdicts = known
        self._told: dict[str, Verdicts] = {}
        self._asked: set[str] = set()

    @property
    def verdicts(self) -> Verdicts:
        """As last judged."""
        return self._verdicts

    @property
    def flush_error(self) -> str:
        """Why the last flush did not succeed; "" if it did."""
        return self._flush.error

    @property
    def committed_step(self) -> int:
        """Newest step in storage; -1 for none."""
        return self._flush.committed_step

    def change_plan(self, plan: AttemptPlan) -> None:
        """The same attempt with other mirrors or leaving nodes; nodes that are gone count no more."""
        self._plan = plan
        self._inventories = {node: found for node, found in self._inventories.items() if node in plan.nodes}

    def receive(self, inventory: Inventory) -> None:
        """What a node holds now."""
        if inventory.attempt == self._plan.attempt and inventory.node in self._plan.nodes:
            self._inventories[inventory.node] = inventory

    def ask_flush(self, now_s: float) -> None:
        """Write the newest complete snapshot to storage as soon as there is a newer one than is there."""
        self._flush = flush_policy.ask(self._flush, now_s)

    def judge(self, now_s: float) -> Verdicts:
        """Judge all that has been reported."""
        verdicts = judge(
            self._plan.run, self._plan.attempt, tuple(self._inventories.values()), leaving=self._plan.leaving
        )
        if set(self._inventories) != set(self._plan.nodes):
            # Not everybody has reported yet: what was complete or safe before still is, as far as we know. Without it,
            # an older snapshot would count as one of the newest for lack of a report, and a newer one would go.
            complete = sorted({*verdicts.complete, *self._verdicts.complete})
            safe = max(filter(None, (verdicts.safe, self._verdicts.safe)), default=None)
            verdicts = replace(verdicts, complete=tuple(complete[-KEPT_COMPLETE:]), safe=safe)
        newest = verdicts.complete[-1] if verdicts.complete else None
        if self._plan.storage_url:
            self._flush = flush_policy.advance(self._flush, self._rules, newest, self._flush_failures(), now_s)
        self._verdicts = replace(verdicts, flush=self._flush.target)
        return self._verdicts

    def to_commit(self) -> SnapshotKey | None:
        """The snapshot whose parts are all in storage, waiting for its manifest."""
        target = self._flush.target
        written = {
            part.key.rank
            for inventory in self._inventories.values()
            for part in inventory.held
            if part.flushed and part.key.snapshot == target
        }
        return target if target and len(written) == target.world_size else None

    def committed(self, key: SnapshotKey, now_s: float) -> None:
        """The manifest is in storage, too."""
        if key == self._flush.target:
            self._flush = flush_policy.committed(self._flush, self._rules, now_s)

    def commit_failed(self, key: SnapshotKey, error: str, now_s: float) -> None:
        """The manifest could not be written."""
        if key == self._flush.target:
            self._flush = flush_policy.advance(self._flush, self._rules, None, {key: error}, now_s)

    def unheard(self) -> list[str]:
        """Nodes that this lead has neither heard of nor asked: they may have reported to one that is dead."""
        return sorted(set(self._plan.nodes) - set(self._inventories) - self._asked - {self._plan.lead})

    def asked(self, node: str) -> None:
        """The node was asked for its inventory and answered; if it knew of no attempt yet, it will report itself."""
        self._asked.add(node)

    def untold(self) -> list[str]:
        """Other nodes that have not heard the present verdicts, sorted."""
        others = set(self._plan.nodes) - {self._plan.lead}
        return sorted(node for node in others if self._told.get(node) != self._verdicts)

    def told(self, node: str, verdicts: Verdicts) -> None:
        """The node has heard these."""
        self._told[node] = verdicts

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until time alone may change a verdict; None if it cannot."""
        return flush_policy.wait_s(self._flush, self._rules, now_s) if self._plan.storage_url else None

    def _flush_failures(self) -> dict[SnapshotKey, str]:
        return {
            inventory.flush_failed: f"node {inventory.node}: {inventory.flush_error}"
            for inventory in self._inventories.values()
            if inventory.flush_failed
        }
