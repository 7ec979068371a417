"""Which ranks of a run are on this node now, as their supervisors say. Free of Ray; safe from any thread."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from orchestrator.adapters.ray_train.stacks import RankProcess
from orchestrator.spec.errors import ExitCode, UserError


class Roster:
    """Ranks by the worker that supervises them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: dict[int, tuple[int, dict[int, RankProcess]]] = {}

    def came(self, attempt: int, worker: int, ranks: Mapping[int, RankProcess]) -> None:
        """A worker has started its ranks; those of earlier attempts are gone, whoever did not say so."""
        with self._lock:
            self._workers = {at: found for at, found in self._workers.items() if found[0] >= attempt}
            self._workers[worker] = (attempt, dict(ranks))

    def gone(self, attempt: int, worker: int) -> tuple[int, ...]:
        """A worker's ranks are gone; which those were. Nothing if a later attempt's are there by now."""
        with self._lock:
            if self._workers.get(worker, (None, {}))[0] != attempt:
                return ()
            return tuple(self._workers.pop(worker)[1])

    def ranks(self) -> dict[int, RankProcess]:
        """All ranks that are here."""
        with self._lock:
            here = [ranks for _, ranks in self._workers.values()]
        return {rank: process for ranks in here for rank, process in ranks.items()}

    def find(self, rank: int) -> RankProcess:
        """One of them. Raises: UserError (conflict): it is not here, or not any more."""
        found = self.ranks().get(rank)
        if found is None:
            problem = f"rank {rank} has not started on this node, or has just left it"
            raise UserError(problem, code=ExitCode.CONFLICT, next_step="Try again once the job runs")
        return found
