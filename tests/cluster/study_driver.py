"""A study's driver as a process of its own, which kills a node and then itself when it is told to.

`python -m tests.cluster.study_driver HOME KILL_NODE_AFTER DIE_AFTER`: both count reports of this process, 0 is never.

It dies only when the node's death has been noticed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
from orchestrator.adapters.ray_tune.run import StudyOptions, run_study
from orchestrator.spec import Study, load_text
from orchestrator.study.events import AttemptOver, Ending, Event, Reported, Stepped
from orchestrator.study.record import StudyRecord

STUDY = """
apiVersion: tideline/v1
kind: Study
metadata: {name: six}
spec:
  template:
    workers: {min: 1, max: 2}
    task: jobs.models.gpt:task
    args: {layers: 1, d_model: 32, heads: 1, seq_len: 32}
    data: {dataset: corpus@latest}
    batch: {global_batch_size: 96, micro_batch_size: 4}  # steps that last, so that the node dies in the middle of some
    steps: 45
  space:
    optimizer.lr: {type: loguniform, min: 1e-4, max: 1e-1}
  searcher: {name: random}
  scheduler: {name: asha, grace_steps: 5, reduction_factor: 3}
  metric: bits_per_byte
  mode: min
  concurrency: {min: 1, max: 2}
  budget: {trials: 6}
"""


def study() -> Study:
    (found,) = load_text(STUDY)
    assert isinstance(found, Study)
    return found


def main() -> None:
    home, kill_node_after, die_after = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with LocalCluster((NodeSize(num_cpus=0), NodeSize(num_cpus=1))) as cluster:
        (home / "root").write_text(str(cluster.nodes[0].folder.parent))
        reports = killed = lost = 0

        def watch(event: Event, record: StudyRecord) -> None:
            nonlocal reports, killed, lost
            reports += isinstance(event, Reported)
            lost += isinstance(event, AttemptOver) and event.why is Ending.LOST
            if isinstance(event, Reported) and 0 < die_after <= reports and lost == killed:
                os.kill(os.getpid(), signal.SIGKILL)
            # In the middle of a trial's longest way, which the first that reports always goes; then another node comes.
            is_on_its_way = isinstance(event, Stepped) and event.points[-1][0] > 15
            if is_on_its_way and 0 < kill_node_after <= reports and not killed:
                killed = 1
                cluster.kill_node(cluster.nodes[-1].node_id)
                cluster.add_node(NodeSize(num_cpus=1))

        run_study(study(), home, StudyOptions(on_event=watch, evaluation_samples=32))


if __name__ == "__main__":
    main()
