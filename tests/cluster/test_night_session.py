"""Ends of a job's nights on real Ray: at a close and when its devices are called back, each leaves a version."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.data import pack
from orchestrator.adapters.files import read_json
from orchestrator.adapters.jobs.aside import start_child
from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.jobs.letters import Letter
from orchestrator.adapters.jobs.night import Nights
from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
from orchestrator.policy.lending.session import UNSEEN
from orchestrator.policy.queueing.orders import NoteKind, Phase, Report
from orchestrator.registry import Registry
from orchestrator.spec import TrainJob, load_text
from tests.cluster.ray_train_runs import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
LOOK_S, LOOKS = 0.2, 600

JOB = """
apiVersion: tideline/v1
kind: TrainJob
metadata: {name: nightly}
spec:
  window: night
  workers: {min: 1, max: 2, resources: {CPU: 1}}
  task: jobs.models.gpt:task
  args: {layers: 1, d_model: 32, seq_len: 32}
  data: {dataset: corpus@latest}
  batch: {global_batch_size: 4, micro_batch_size: 1}
  steps: 1000000
  deepspeed: {zero_stage: 1, precision: fp32}
  checkpoint: {every: 600s, snapshot_every_steps: 50}
  register: {model: night-gpt, gate: {metric: bits_per_byte, max: 9}}
"""


def until(what: str, holds: Callable[[], bool], output: Path) -> None:
    for _ in range(LOOKS):  # looks, not seconds: a machine may stand still meanwhile
        if holds():
            return
        time.sleep(LOOK_S)
    raise AssertionError(f"still not: {what}\n{output.read_text()[-2000:]}")


def one_night(folder: JobFolder, seats: dict[str, int], *, attempt: int, **why: bool) -> Report:
    """A process of the job from its order to the end of the process; how it was when it was told to stop."""
    folder.write_order(Letter(id=f"nightly-a{attempt}", attempt=attempt, at_s=time.time(), seats=seats))
    with folder.output.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.adapters.jobs.process", str(folder.path)], stdout=output, stderr=output
        )
    try:
        until(
            "it makes steps",
            lambda: any(one.steps_done > 3 and one.phase is Phase.RUNNING for one in folder.read_reports()),
            folder.output,
        )
        running, now_s = folder.read_reports()[-1], time.time()
        folder.write_order(
            Letter(id=f"nightly-a{attempt}-stop", attempt=attempt, at_s=now_s, stop=True, until_s=now_s + 600.0, **why)
        )
        until("its process ends", lambda: process.poll() is not None, folder.output)
    finally:
        process.kill()
        process.wait()
    return running


def test_a_night_that_is_over_leaves_a_version_and_the_job_its_state(tmp_path: Path) -> None:
    dataset = pack(ROOT / "orchestrator", name="corpus", home=tmp_path)
    (job,) = load_text(JOB)
    assert isinstance(job, TrainJob)
    folder = JobFolder(tmp_path / "jobs" / "nightly")
    with LocalCluster((NodeSize(num_cpus=1),)) as cluster:
        around = {
            "ray": str(cluster.nodes[0].handle.gcs_address),
            "home": str(tmp_path),
            "logs": str(tmp_path / "logs"),
            "notices": None,
            "prices": [],
        }
        folder.write_job(json.loads(json.dumps(job.to_document(), default=str)), around)
        seats = {cluster.nodes[0].node_id: 1}
        running = one_night(folder, seats, attempt=1, night_over=True)
        (report,) = folder.read_reports()
        folder.drop_report(1)
        one_night(folder, seats, attempt=2, called_back=True)
    (second,) = folder.read_reports()
    assert (running.phase, report.phase) == (Phase.RUNNING, Phase.STOPPED), report.detail
    assert running.measured is not None
    assert running.measured.ending.finish_s > 0
    version = Registry(tmp_path / "models").get("night-gpt@1")
    assert version.number == 1
    assert version.provenance.run == f"nightly/{report.steps_done}"
    assert version.provenance.dataset_hash == dataset.manifest.hash
    assert 0 < version.provenance.metrics["bits_per_byte"] < 9
    assert report.detail.endswith("registered as night-gpt@1")
    stages = [dict(note.data)["stage"] for note in report.notes if note.kind is NoteKind.SESSION]
    assert list(dict.fromkeys(stages)) == ["train", "checkpoint", "evaluate", "register", "release"]
    nights = Nights(tmp_path / "runs" / "nightly")
    assert nights.times.evaluate_s != UNSEEN.evaluate_s
    assert (second.phase, "once they are free" in second.detail) == (Phase.STOPPED, True), second.detail
    assert Registry(tmp_path / "models").get("night-gpt@2").provenance.run == f"nightly/{second.steps_done}"
    assert nights.take_afterwards().endswith("registered as night-gpt@2")
    # A job that trained on would leave the same version by a process beside it.
    beside = start_child(folder)
    assert beside.wait() == 0, folder.output.read_text()[-2000:]
    said = read_json(tmp_path / "runs" / "nightly" / "aside.json")["said"]
    assert said.startswith(f"evaluated at step {second.steps_done}: bits_per_byte ")
    assert said.endswith("registered as night-gpt@2")
