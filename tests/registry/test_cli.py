"""`tide models`: what programs read on stdout, and the exit codes of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.registry import Registry
from tests.registry.models import PROVENANCE, model_folder


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("TIDE_HOME", str(tmp_path / "home"))
    registry = Registry(tmp_path / "home" / "models")
    for seed in range(2):
        registry.register("gpt-demo", model_folder(tmp_path / str(seed), seed), PROVENANCE)
    return registry


def tide(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main(["models", *argv])
    out, err = capsys.readouterr()
    return int(done.value.code or 0), out, err


def test_ls_shows_the_newest_version_and_its_aliases(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    registry.set_alias("gpt-demo@2", "champion")
    code, out, _ = tide(capsys, "ls", "-o", "json")
    (item,) = json.loads(out)["items"]
    assert (code, item["number"], item["aliases"], item["num_parameters"]) == (0, 2, ["champion"], 15)


def test_ls_of_one_model_shows_every_version(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert [item["number"] for item in json.loads(tide(capsys, "ls", "gpt-demo", "-o", "json")[1])["items"]] == [1, 2]
    assert "gpt-demo@1" in tide(capsys, "ls", "gpt-demo")[1]


def test_show_names_files_with_their_hashes(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(tide(capsys, "show", "gpt-demo@1", "-o", "json")[1])
    assert document["kind"] == "ModelVersion"
    assert document["provenance"]["metrics"] == {"bits_per_byte": 2.5}
    assert [entry["path"] for entry in document["files"]] == ["config.json", "model.safetensors"]
    assert document["files"][0]["sha256"] in tide(capsys, "show", "gpt-demo@1")[1].replace("\n", "")


def test_verify_exits_3_and_names_the_damaged_file(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert tide(capsys, "verify", "gpt-demo@1")[0] == 0
    weights = (registry.folder(registry.get("gpt-demo@1")) / "model.safetensors").resolve()
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    code, out, err = tide(capsys, "verify", "gpt-demo@1", "-o", "json")
    assert (code, json.loads(out)["whole"]) == (3, False)
    assert "1 of 2 files differ; model.safetensors" in err


def test_alias_moves_what_a_name_means(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(tide(capsys, "alias", "gpt-demo@1", "champion", "-o", "json")[1])["number"] == 1
    assert registry.get("gpt-demo@champion").number == 1


def test_an_alias_is_forgotten_and_its_version_stays(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    registry.set_alias("gpt-demo@1", "champion")
    assert json.loads(tide(capsys, "alias", "gpt-demo", "champion", "--remove", "-o", "json")[1])["number"] is None
    assert (registry.aliases("gpt-demo"), registry.get("gpt-demo@1").number) == ({}, 1)


@pytest.mark.parametrize(
    ("argv", "exit_code"),
    [
        (["show", "absent"], 4),
        (["show", "gpt-demo@9"], 4),
        (["ls", "absent"], 4),
        (["alias", "gpt-demo@1", "latest"], 3),
        (["alias", "gpt-demo", "nobody", "--remove"], 4),
        (["alias", "gpt-demo@1", "champion", "--remove"], 3),
        (["show", "Gpt Demo"], 3),
    ],
)
def test_mistakes_have_their_exit_codes(
    registry: Registry, capsys: pytest.CaptureFixture[str], argv: list[str], exit_code: int
) -> None:
    code, out, err = tide(capsys, *argv)
    assert (code, out) == (exit_code, "")
    assert err.startswith("error: ")
