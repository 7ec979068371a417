"""The two systems under test as processes of their own, side by side behind one small interface."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from tests.benchmarks import elastic_ours, elastic_ray

Steps = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One training job, the same for every system. `global_batch_size` divides at every size that is met, since the
    competitor can do no other."""

    args: dict[str, Any]
    min_workers: int
    max_workers: int
    global_batch_size: int
    micro_batch_size: int
    steps: int
    checkpoint_every_steps: int
    snapshot_every_steps: int
    zero_stage: int = 3
    lr: float = 3e-4
    seed: int = 7
    task: str = "jobs.models.gpt:task"
    dataset: str = "python-stdlib@latest"
    precision: str = "fp32"
    resources: dict[str, str] = field(default_factory=lambda: {"CPU": "1"})


class System(Protocol):
    """A system that trains `workload` in `workdir` on the cluster at an address."""

    name: str

    def start(self, workload: Workload, workdir: Path, address: str, data: Path) -> subprocess.Popen[bytes]: ...

    def steps(self, workdir: Path) -> Steps: ...


class Ours:
    """The product's own path: `run_train_job`."""

    name = "ours"

    def __init__(self, *, ranks_per_worker: int = 1, warm_s: float = 120.0) -> None:
        self._ranks_per_worker = ranks_per_worker
        self._warm_s = warm_s

    def start(self, workload: Workload, workdir: Path, address: str, data: Path) -> subprocess.Popen[bytes]:
        workdir.mkdir(parents=True)
        job = workdir / "job.yaml"
        job.write_text(yaml.safe_dump(_job(workload), sort_keys=False))
        home = workdir / "home"
        home.mkdir()
        (home / "datasets").symlink_to(data.parents[1], target_is_directory=True)
        arguments = [str(job), str(home), address, str(self._ranks_per_worker), str(self._warm_s)]
        return _spawn("tests.benchmarks.elastic_ours", arguments, workdir, {})

    def steps(self, workdir: Path) -> Steps:
        return elastic_ours.steps_of(workdir / "home", "bench")


class RayElastic:
    """Ray Train's elasticity with universal checkpoints."""

    name = "ray"

    def start(self, workload: Workload, workdir: Path, address: str, data: Path) -> subprocess.Popen[bytes]:
        workdir.mkdir(parents=True)
        job = elastic_ray.RayJob(
            task=workload.task,
            args=workload.args,
            data_dir=str(data),
            min_workers=workload.min_workers,
            max_workers=workload.max_workers,
            global_batch_size=workload.global_batch_size,
            micro_batch_size=workload.micro_batch_size,
            steps=workload.steps,
            checkpoint_every=workload.checkpoint_every_steps,
            lr=workload.lr,
            seed=workload.seed,
            workdir=str(workdir),
            zero_stage=workload.zero_stage,
        )
        path = workdir / "job.json"
        path.write_text(json.dumps(asdict(job)))
        return _spawn("tests.benchmarks.elastic_ray", [str(path), address], workdir, elastic_ray.environment())

    def steps(self, workdir: Path) -> Steps:
        return [line for line in elastic_ray.steps_of(workdir) if line["kind"] == "step"]


@contextlib.contextmanager
def running(system: System, workload: Workload, workdir: Path, address: str, data: Path) -> Iterator[Any]:
    """The system's process; stopped, then killed, on leaving."""
    process = system.start(workload, workdir, address, data)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _spawn(module: str, arguments: list[str], workdir: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parents[2]
    path = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    with (workdir / "output.txt").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=root,
            env={**os.environ, **env, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _job(workload: Workload) -> dict[str, Any]:
    return {
        "apiVersion": "tideline/v1",
        "kind": "TrainJob",
        "metadata": {"name": "bench"},
        "spec": {
            "workers": {
                "min": str(workload.min_workers),
                "max": str(workload.max_workers),
                "resources": workload.resources,
            },
            "task": workload.task,
            "args": {name: str(value) for name, value in workload.args.items()},
            "data": {"dataset": workload.dataset, "seed": str(workload.seed)},
            "batch": {
                "global_batch_size": str(workload.global_batch_size),
                "micro_batch_size": str(workload.micro_batch_size),
            },
            "steps": str(workload.steps),
            "optimizer": {"lr": str(workload.lr), "gradient_clipping": "1.0"},
            "deepspeed": {"zero_stage": str(workload.zero_stage), "precision": workload.precision},
            "checkpoint": {"every": "60s", "snapshot_every_steps": str(workload.snapshot_every_steps), "keep": "2"},
        },
    }
