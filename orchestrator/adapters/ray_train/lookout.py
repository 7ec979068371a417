"""What a run's driver sees of the cluster: one look a second, and at once after a notice or the end of a group."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrator.adapters.ray_train.driver_ports import Surroundings
from orchestrator.adapters.ray_train.events import Event, Remark
from orchestrator.adapters.ray_train.journal import Journal
from orchestrator.adapters.ray_train.protocol import Announced

# The cluster is looked at this often; a notice is answered within one look and the stop.
LOOK_EVERY_S = 1.0


class Lookout:
    """Keeps nodes' agents up and keepers' mirrors where nodes stay, and remembers departures until they are weighed.

    `held`: workers that the run has on each node, by the controller's last word.
    """

    def __init__(self, around: Surroundings, journal: Journal, emit: Callable[[Event], None]) -> None:
        self._around = around
        self._journal = journal
        self._emit = emit
        self._looked_at_s = float("-inf")
        self._keeping: frozenset[str] = frozenset()
        self._is_warned = False
        self._unexplained: set[str] = set()
        self.held: Mapping[str, int] = {}

    def look(self, now_s: float) -> None:
        """Look if it is time."""
        if now_s - self._looked_at_s < LOOK_EVERY_S:
            return
        self._looked_at_s = now_s
        sizing = self._around.sizing
        alive = sizing.look()
        self._around.agents.keep_up(alive, sizing.staying(), sizing.hosts())
        attempt = self._journal.attempt
        if attempt is not None and attempt.first_step_at_s is not None:
            self._around.agents.drained(alive - sizing.staying() - set(attempt.plan.nodes))
        notices = sizing.notices(self.held, now_s)
        for notice in notices:
            self._emit(notice)
        self._unexplained.update(notice.node_id for notice in notices if not notice.detail)
        self._is_warned = self._is_warned or bool(notices)
        keeping = self._around.agents.ready()
        if attempt is not None and (notices or keeping != self._keeping):
            self._keeping = keeping  # keepers mirror to nodes that came, and no longer to those that go
            self._around.state.tell(alive - sizing.staying())

    def look_again(self) -> None:
        """What is true of the cluster has just changed: look at the next call."""
        self._looked_at_s = float("-inf")

    def group_starts(self) -> None:
        """The keepers of a new group are told the present nodes when it begins."""
        self._keeping = self._around.agents.ready()

    def announced(self, announced: Announced) -> None:
        """A node's agent has heard a notice; what is only a warning is told and no more."""
        if announced.advisory or announced.node_id in self._unexplained:
            self._unexplained.discard(announced.node_id)  # Ray's drain was seen first, and Ray does not say why
            number = self._journal.attempt.plan.attempt if self._journal.attempt else 0
            detail = f"node {announced.node_id[:12]}: {announced.detail}"
            self._emit(Remark(at_s=announced.at_s, attempt=number, detail=detail))
        if announced.advisory:
            return
        self._around.sizing.announced(announced)
        self.look_again()

    def take_warning(self) -> bool:
        """Whether a departure was noticed since this was asked last."""
        is_warned, self._is_warned = self._is_warned, False
        return is_warned
