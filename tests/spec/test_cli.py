"""`tide validate` and `tide schema`, through the root command: what goes to stdout, what to stderr, which code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.spec import KINDS
from orchestrator.spec.schema import json_schema
from tests.spec.documents import CLUSTER, JOB, spoil


@pytest.fixture
def tide(capsys: pytest.CaptureFixture[str]):
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "job.yaml").write_text(f"{JOB}---\n{CLUSTER}")
    (tmp_path / "deep" / "pod.yml").write_text("apiVersion: v1\nkind: Pod\n")
    (tmp_path / "notes.txt").write_text("not: yaml: at all")
    return tmp_path


def test_fine_files_are_counted(tide, folder: Path) -> None:
    assert tide("validate", folder / "job.yaml") == (0, "2 documents in 1 file fine\n", "")


def test_folders_are_searched_and_other_programs_left_alone(tide, folder: Path) -> None:
    code, out, err = tide("validate", folder)
    assert (code, out, err) == (0, "2 documents in 2 files fine, 1 document of other programs skipped\n", "")


def test_a_file_that_is_named_must_be_ours(tide, folder: Path) -> None:
    code, _, err = tide("validate", folder / "deep" / "pod.yml")
    assert code == 3
    assert "E111 apiVersion" in err


def test_problems_of_all_files_are_told_at_once(tide, folder: Path) -> None:
    (folder / "a.yaml").write_text(spoil(JOB, "  steps: x"))
    (folder / "b.yaml").write_text(spoil(JOB, "  steps: 0", "  strict: no"))
    code, out, err = tide("validate", folder)
    assert code == 3
    assert out == "2 documents in 4 files fine, 3 problems, 1 document of other programs skipped\n"
    assert [line.split(": ")[0] for line in err.splitlines()] == [
        f"{folder}/a.yaml:9:10",
        f"{folder}/b.yaml:9:10",
        f"{folder}/b.yaml:10:11",
    ]


def test_a_deadline_that_has_passed_is_a_problem_here(tide, folder: Path) -> None:
    (folder / "late.yaml").write_text(spoil(JOB, "  deadline: 2001-01-01T00:00:00Z"))
    code, _, err = tide("validate", folder / "late.yaml")
    assert code == 3
    assert "E117 deadline: 2001-01-01T00:00:00+00:00 has passed" in err


def test_json_holds_the_fields_of_every_problem(tide, folder: Path) -> None:
    (folder / "a.yaml").write_text(spoil(JOB, "  steps: x"))
    code, out, err = tide("validate", folder, "-o", "json")
    assert (code, err) == (3, "")
    assert json.loads(out) == {
        "apiVersion": "tideline/v1",
        "kind": "Validation",
        "files": 3,
        "fine": 2,
        "foreign": 1,
        "problems": [
            {
                "file": f"{folder}/a.yaml",
                "line": 9,
                "column": 10,
                "code": "E108",
                "path": "steps",
                "what": "'x' is not a whole number",
                "want": "it must be a whole number of at least 1",
                "next_step": "Correct the value",
            }
        ],
    }


def test_a_file_named_twice_is_read_once(tide, folder: Path) -> None:
    assert tide("validate", folder / "job.yaml", folder / "job.yaml", folder)[1].startswith("2 documents in 2 files")


def test_missing_files_and_empty_folders_are_told(tide, tmp_path: Path) -> None:
    code, _, err = tide("validate", tmp_path / "none.yaml")
    assert (code, "E101 cannot be read (no such file or directory)" in err) == (3, True)
    code, _, err = tide("validate", tmp_path)
    assert (code, err) == (
        3,
        f"error: {tmp_path}: holds no YAML files; there must be one at least. Name another folder, or a file\n",
    )


def test_validate_without_a_path_is_a_mistake_of_use(tide) -> None:
    assert tide("validate")[0] == 2


def test_schema_prints_the_schema_of_a_kind(tide) -> None:
    code, out, _ = tide("schema", "Merge")
    assert (code, json.loads(out)) == (0, json_schema("Merge"))


def test_schema_writes_all_kinds_to_a_folder(tide, tmp_path: Path) -> None:
    code, out, _ = tide("schema", "--all", tmp_path / "new" / "folder")
    assert code == 0
    files = [Path(line) for line in out.splitlines()]
    assert [path.name for path in files] == [f"{kind}.schema.json" for kind in KINDS]
    assert all(json.loads(path.read_text())["title"] == kind for path, kind in zip(files, KINDS, strict=True))


def test_schema_guesses_a_kind_that_is_none(tide) -> None:
    code, _, err = tide("schema", "TrainJop")
    assert code == 2
    assert err.endswith("Did you mean TrainJob?\n")


@pytest.mark.parametrize("arguments", [["schema"], ["schema", "Merge", "--all", "x"]])
def test_schema_wants_a_kind_or_a_folder(tide, arguments: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = tide(*arguments)
    assert (code, err.startswith("error: name a kind or --all DIR, not both")) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_schema_into_a_file_is_told(tide, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    code, _, err = tide("schema", "--all", tmp_path / "taken")
    assert code == 3
    assert err == f"error: {tmp_path / 'taken'}: cannot be written (file exists). Name a folder that you may write to\n"
