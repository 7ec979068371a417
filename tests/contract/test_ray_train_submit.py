"""`tide submit` and `tide resize` around a run: what they refuse, with which exit code, and what they keep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.adapters.ray_train.events import Status
from orchestrator.adapters.ray_train.lease import FileLease, Lease
from orchestrator.adapters.ray_train.run import RunResult
from orchestrator.cli.main import main
from orchestrator.cli.submit import finish, local_node, put_aside
from orchestrator.spec import TrainJob, load_one, load_text
from orchestrator.spec.errors import ExitCode, UserError

ROOT = Path(__file__).resolve().parents[2]
JOB = """
apiVersion: tideline/v1
kind: TrainJob
metadata: {name: small}
spec:
  workers: {min: 2, max: 4}
  task: jobs.models.gpt:task
  data: {dataset: python-stdlib@latest}
  batch: {global_batch_size: 8, micro_batch_size: 2}
  steps: 3
"""
GATED = JOB + "  register: {model: small, gate: {metric: bits_per_byte, max: 2.0}}\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIDE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def tide(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def job_file(tmp_path: Path, text: str = JOB) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return path


def a_job(text: str = JOB) -> TrainJob:
    (job,) = load_text(text)
    assert isinstance(job, TrainJob)
    return job


def result(status: Status, home: Path, **fields: object) -> RunResult:
    values = {"run_id": "small", "detail": "", "steps": 3, "loss": 1.0, "run_dir": home, "dataset_hash": "ab" * 32}
    return RunResult(status=status, **(values | fields))  # type: ignore[arg-type]


def test_what_only_a_server_can_do_is_not_pretended(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tide("submit", str(job_file(tmp_path)), "--in-process", "--dry-run") == ExitCode.USAGE
    assert "ask a server" in capsys.readouterr().err
    assert tide("submit", str(job_file(tmp_path)), "--fresh") == ExitCode.USAGE


@pytest.mark.parametrize("key", ["deadline: 8h", "window: night", "after: [other]", "budget: {usd: '5'}"])
def test_keys_that_would_be_silence_are_refused(
    home: Path, tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tide("submit", str(job_file(tmp_path, f"{JOB}  {key}\n")), "--in-process") == ExitCode.INVALID
    assert f"spec.{key.partition(':')[0]}" in capsys.readouterr().err


def test_devices_that_are_not_there_can_never_run() -> None:
    job = a_job(JOB.replace("max: 4}", "max: 4, resources: {GPU: 1000}}"))
    with pytest.raises(UserError) as error:
        local_node(job)
    assert error.value.code is ExitCode.NEVER


def test_a_failed_run_exits_100_and_says_where_to_look(home: Path) -> None:
    with pytest.raises(UserError) as error:
        finish(a_job(), result(Status.FAILED, home, detail="rank 1 died"), home, Path("job.yaml"))
    assert error.value.code is ExitCode.JOB_FAILED
    assert str(home / "logs") in error.value.next_step


def test_ctrl_c_exits_130_and_says_how_to_go_on(home: Path) -> None:
    with pytest.raises(UserError) as error:
        finish(a_job(), result(Status.PAUSED, home, checkpoint_step=2), home, Path("job.yaml"))
    assert error.value.code is ExitCode.DETACHED
    assert "step 2 is kept" in error.value.problem
    assert "tide submit job.yaml --in-process" in error.value.next_step


@pytest.mark.parametrize(
    ("metrics", "problem"),
    [({"bits_per_byte": 2.5}, "bits_per_byte is 2.5"), ({"loss": 1.0}, "reports no bits_per_byte")],
)
def test_a_gate_that_is_not_reached_registers_nothing(home: Path, metrics: dict[str, float], problem: str) -> None:
    made = result(Status.SUCCEEDED, home, metrics=metrics, model_dir=home / "model")
    with pytest.raises(UserError, match=problem) as error:
        finish(a_job(GATED), made, home, Path("job.yaml"))
    assert error.value.code is ExitCode.JOB_FAILED
    assert not (home / "models").exists()


def test_a_fresh_start_keeps_what_was_there(home: Path) -> None:
    assert put_aside(home, "small") is None
    for folder in (home / "runs" / "small", home / "checkpoints" / "small"):
        folder.mkdir(parents=True)
        (folder / "mark").touch()
    assert put_aside(home, "small") == home / "runs" / "small~1"
    assert (home / "runs" / "small~1" / "checkpoints" / "mark").exists()
    assert not (home / "checkpoints" / "small").exists()


def running(home: Path, status: str = "running") -> Path:
    folder = home / "runs" / "small"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({"status": status}))
    (folder / "job.json").write_text(a_job().model_dump_json())
    return folder


def test_resize_pins_and_lets_go(home: Path) -> None:
    folder = running(home)
    assert tide("resize", "small", "3", "-o", "json") == 0
    assert FileLease(folder).read() == Lease(workers=3)
    assert tide("resize", "small", "auto") == 0
    assert FileLease(folder).read() == Lease()


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("other", "3"), "running", ExitCode.UNKNOWN),
        (("small", "5"), "running", ExitCode.INVALID),
        (("small", "1"), "running", ExitCode.INVALID),
        (("small", "many"), "running", ExitCode.INVALID),
        (("small", "3"), "succeeded", ExitCode.CONFLICT),
    ],
)
def test_resize_refuses(home: Path, arguments: tuple[str, str], status: str, code: ExitCode) -> None:
    folder = running(home, status)
    assert tide("resize", *arguments) == code
    assert not (folder / "lease.json").exists()


def test_the_shipped_job_loads() -> None:
    job = load_one(ROOT / "cluster-configs" / "jobs" / "demo.yaml", TrainJob)
    assert job.spec.register is not None
