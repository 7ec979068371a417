"""What a job brings along reaches its workers: its folder as it was, its packages beside what there is, its secrets."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from jobs.data import pack
from orchestrator.adapters import own_packages
from orchestrator.adapters.own_code import with_pinned_code
from orchestrator.adapters.own_packages import install_packages
from orchestrator.adapters.ray_train.prepare import Prepared, as_in_a_rank, prepare
from orchestrator.spec import TrainJob, load_text
from orchestrator.spec.errors import ExitCode, UserError
from tests.contract.test_ray_train_fitting import JOB, ROOT, SMALL

TASK = """
import os
from jobs.models.gpt import task as gpt
from jobs.models.task import Task

def task(**args: int) -> Task:
    made = gpt(**args)
    made.seen = {"VERSION": "one", "S3_KEY": os.environ.get("S3_KEY"), "PLAIN": os.environ.get("PLAIN")}
    return made
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    pack(ROOT / "orchestrator" / "planner", name="corpus", home=home)
    return home


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    module = f"own_{request.node.name.partition('[')[0][5:25]}"
    (tmp_path / f"{module}.py").write_text(TASK)
    (tmp_path / "module").write_text(module)
    return tmp_path


def a_job(folder: Path, runtime: str) -> TrainJob:
    module = (folder / "module").read_text()
    text = JOB.format(task=f"{module}:task", args=SMALL)
    (job,) = load_text(text + f"  runtime: {{working_dir: {folder}, {runtime}}}\n")
    assert isinstance(job, TrainJob)
    return job


def secret(home: Path, name: str, content: str) -> None:
    file = home / "secrets" / "default" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    file.chmod(0o600)


def test_a_run_imports_the_folder_as_it_was_when_it_was_submitted(home: Path, folder: Path) -> None:
    first = prepare(a_job(folder, "env: {}"), home, "j")
    ran = Path(first.cwd)
    assert ran.is_relative_to(home / "code")
    assert first.code == f"code:{ran.name}"
    assert first.job.code_paths == (str(ran),)
    module = (folder / "module").read_text()
    (folder / f"{module}.py").write_text("broken(")
    assert (ran / f"{module}.py").read_text() == TASK
    kept = with_pinned_code(a_job(folder, "env: {}"), home)
    assert kept.spec.runtime.working_dir not in (first.code, str(folder)), "the folder as it is now is other code"
    runtime = kept.spec.runtime.model_copy(update={"working_dir": first.code})
    again = kept.model_copy(update={"spec": kept.spec.model_copy(update={"runtime": runtime})})
    assert prepare(again, home, "j").cwd == str(ran), "by its id it is the same, whatever the folder holds now"


def test_secrets_are_variables_of_the_ranks_and_nowhere_written(home: Path, folder: Path) -> None:
    secret(home, "s3-key", "AKIA-not-shown\n")
    prepared = prepare(a_job(folder, "secrets: [s3-key], env: {PLAIN: seen}"), home, "j")
    assert prepared.secrets == {"S3_KEY": "AKIA-not-shown"}
    assert prepared.task.seen == {"VERSION": "one", "S3_KEY": "AKIA-not-shown", "PLAIN": "seen"}  # type: ignore[attr-defined]
    assert "AKIA" not in repr(prepared)
    assert "AKIA" not in repr(prepared.job)
    assert "S3_KEY" not in os.environ, "what others run in this process does not see them"
    with as_in_a_rank(prepared):
        assert os.environ["S3_KEY"] == "AKIA-not-shown"


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        (None, 0o600, "cannot be read: No such file"),
        ("x", 0o644, "only its owner may read"),
        ("", 0o600, "must be 1 to"),
        ("a\0b", 0o600, "without null bytes"),
    ],
)
def test_a_secret_that_cannot_be_used_is_named(
    home: Path, folder: Path, content: str | None, mode: int, problem: str
) -> None:
    name = f"key{mode:o}{len(content or '')}"
    if content is not None:
        secret(home, name, content)
        (home / "secrets" / "default" / name).chmod(mode)
    with pytest.raises(UserError, match=problem) as refused:
        prepare(a_job(folder, f"secrets: [{name}]"), home, "j")
    assert refused.value.code is ExitCode.UNKNOWN


# --- Packages -----------------------------------------------------------------------------------------------------


def wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    """A package of one module, in a folder that serves as the index."""
    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_packages_are_added_and_what_is_installed_counts_as_there(home: Path, index: Path) -> None:
    wheel(index, "tide_extra", "1.2", requires="tide-deeper>=2")
    wheel(index, "tide_deeper", "2.1", requires="numpy>=1")
    folder = install_packages(["tide-extra==1.2"], home)
    assert folder is not None
    assert sorted(path.name for path in folder.glob("*.py")) == ["tide_deeper.py", "tide_extra.py"]
    code = "import tide_extra, tide_deeper; print(tide_extra.version, tide_deeper.version)"
    said = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, check=True
    )
    assert said.stdout.split() == [b"1.2", b"2.1"]
    assert install_packages((), home) is None


def test_the_same_set_is_installed_once(home: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(index, "tide_once", "1.0")
    first = install_packages(["tide-once"], home)
    monkeypatch.setattr(own_packages.subprocess, "run", lambda *args, **more: pytest.fail("pip was asked again"))
    assert install_packages(["tide-once"], home) == first


def test_what_would_replace_an_installed_package_is_refused_and_nothing_is_left(home: Path, index: Path) -> None:
    wheel(index, "numpy", "0.1")
    before = set((home / "packages").glob("[!.]*"))
    with pytest.raises(UserError, match=r"pip cannot install numpy==0\.1 beside what is there") as refused:
        install_packages(["numpy==0.1"], home)
    assert refused.value.code is ExitCode.NEVER
    assert set((home / "packages").glob("[!.]*")) == before


def test_packages_are_imported_after_a_jobs_own_code(home: Path, folder: Path, index: Path) -> None:
    wheel(index, "tide_ordered", "1.0")
    prepared: Prepared = prepare(a_job(folder, "pip: [tide-ordered==1.0]"), home, "j")
    own, packages = prepared.job.code_paths
    assert own == prepared.cwd
    assert (Path(packages) / "tide_ordered.py").exists()
