"""Ray Train's worker group around workers that were there before it and stay after it."""

from __future__ import annotations

from typing import Any

import ray
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.state import WorkerGroupState
from ray.train.v2._internal.execution.worker_group.worker import Worker
from ray.train.v2._internal.util import time_monotonic


class StandingWorkerGroup(WorkerGroup):  # type: ignore[misc]
    """One attempt's group. It has no placement group, its workers hold their resources themselves, and no
    synchronisation actor, because its train function reports nothing but its return value."""

    def begin(self, workers: list[Worker]) -> None:
        """Give the workers their ranks and start the train function on each."""
        self._assert_inactive()
        for callback in self._callbacks:
            callback.before_worker_group_start(self._worker_group_context)
        workers = WorkerGroup._assign_worker_ranks(workers)
        self._worker_rank_to_replica_group_rank = {rank: rank for rank in range(len(workers))}
        self._init_train_context(workers, sync_actor=None)
        self._worker_group_state = WorkerGroupState(
            start_time=time_monotonic(), placement_group_handle=None, workers=workers, sync_actor=None
        )
        for callback in self._callbacks:
            callback.after_worker_group_start(self)
        ray.get([worker.actor.run_train_fn.remote(self._worker_group_context.train_fn_ref) for worker in workers])
        for callback in self._callbacks:
            callback.after_worker_group_training_start(self)

    def shutdown(self) -> None:
        """End the group, not its workers: they go back to the bench."""
        self._assert_active()
        for callback in self._callbacks:
            callback.before_worker_group_shutdown(self)
        self._clear_state()
        for callback in self._callbacks:
            callback.after_worker_group_shutdown(self._worker_group_context)

    def abort(self) -> None:
        """The same; the controller clears the bench."""
        for callback in self._callbacks:
            callback.before_worker_group_abort(self._worker_group_context)
        self._clear_state()

    def node_ids(self) -> list[str]:
        """The node of each worker, by rank; empty when the group has ended."""
        return [worker.metadata.node_id for worker in self.get_workers()] if self.has_started() else []

    def _decorate_worker_log_file_paths(self, workers: list[Worker]) -> Any:
        """Not asked for: the workers' own output is in Ray's session, the ranks' in the run's folder."""
        return workers
