"""`tide merge`, `quantize`, `models prune` and `models evaluate` on registered models, and a kill before the end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.data import pack
from jobs.models.load import load_model
from orchestrator.cli.main import main
from orchestrator.cli.model_refs import version_names
from orchestrator.registry import Provenance, Registry
from tests.serving.worlds import tiny_model
from tests.transform.folders import folder_of, tensors


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with three registered GPTs and a data set."""
    home, work = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("work")
    (work / "text").mkdir()
    for at in range(40):
        (work / "text" / f"file{at}.py").write_text(f"def f{at}(x):\n    return x * {at}\n" * 9)
    packed = pack(work / "text", name="code", home=home)
    for seed in range(3):
        provenance = Provenance(dataset="code@latest", dataset_hash=packed.folder.name if seed else "")
        Registry(home / "models").register("gpt", tiny_model(work / str(seed), seed), provenance)
    Registry(home / "models").register("other", folder_of(work / "other", tensors(1)), Provenance())
    return home


@pytest.fixture
def registry(started: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("TIDE_HOME", str(started))
    return Registry(started / "models")


class Tide:
    def __init__(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self._capsys, self._folder = capsys, folder

    def __call__(self, *argv: str) -> tuple[int, Any, str]:
        """Exit code, the JSON on stdout, and stderr."""
        with pytest.raises(SystemExit) as done:
            main([*argv, "-o", "json"])
        out, err = self._capsys.readouterr()
        return int(done.value.code or 0), json.loads(out) if out else None, err

    def file(self, **spec: object) -> str:
        document = {"apiVersion": "tideline/v1", "kind": "Merge", "metadata": {"name": "both"}, "spec": spec}
        path = self._folder / "merge.yaml"
        path.write_text(yaml.safe_dump(document))
        return str(path)


@pytest.fixture
def tide(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Tide:
    return Tide(capsys, tmp_path)


BOTH = [{"model": "gpt@2", "weight": 0.6}, {"model": "gpt@3", "weight": 0.4}]


def test_a_merge_is_registered_with_all_its_parents(registry: Registry, tide: Tide) -> None:
    file = tide.file(models=BOTH, base="gpt@1", method={"name": "ties", "density": 0.5}, output={"model": "merged"})
    code, document, _ = tide("merge", file)
    assert (code, document["kind"], document["number"], document["measured"]) == (0, "ModelVersion", 1, [])
    lineage, tags = document["provenance"]["lineage"], document["provenance"]["tags"]
    assert lineage == {"relation": "merge", "parents": ["gpt@2", "gpt@3", "gpt@1"]}
    assert tags == {"merge": "both", "method": "ties", "method.density": "0.5", "method.scale": "1.0",
                    "models": "gpt@2 x 0.6, gpt@3 x 0.4", "base": "gpt@1", "dtype": "fp32"}  # fmt: skip
    assert tide("merge", file)[1]["number"] == 1  # the same bytes from the same parents are the same version
    load_model(registry.folder(registry.get("merged")))
    assert list((registry.root.parent / "transforms").glob(".work-*")) == []


def test_a_dry_run_makes_nothing(registry: Registry, tide: Tide) -> None:
    file = tide.file(models=BOTH, method={"name": "linear"}, dtype="bf16", output={"model": "dry"})
    code, plan, _ = tide("merge", file, "--dry-run")
    num_bytes = registry.get("gpt@1").num_parameters * 4
    assert (code, plan["kind"], plan["read_bytes"], plan["written_bytes"]) == (
        0,
        "MergePlan",
        2 * num_bytes,
        num_bytes / 2,
    )
    assert plan["peak_bytes"] > 0
    assert "dry" not in registry.models()


@pytest.mark.parametrize(("limit", "code"), [(20.0, 0), (0.01, 100)])
def test_a_gate_is_measured_on_the_parents_data(registry: Registry, tide: Tide, limit: float, code: int) -> None:
    output = {"model": f"gated-{code}", "gate": {"metric": "bits_per_byte", "max": limit}}
    ended, document, err = tide("merge", tide.file(models=BOTH, method={"name": "linear"}, output=output))
    assert ended == code
    if code:
        assert "bits_per_byte is " in err
        assert "gated-100" not in registry.models()
        return
    assert [one["model"] for one in document["measured"]] == ["gpt@2", "gpt@3", "gated-0@1"]
    assert document["provenance"]["metrics"] == document["measured"][-1]["metrics"]
    assert document["provenance"]["tags"]["evaluated_on"].startswith("code@")


@pytest.mark.parametrize(
    ("spec", "code", "said"),
    [
        ({"models": [{"model": "gpt@9"}, {"model": "gpt@1"}]}, 4, "gpt has no version 9"),
        ({"models": [{"model": "gpt@3"}, {"model": "gpt@latest"}]}, 7, "gpt@3 and gpt@latest are one version"),
        ({"models": [{"model": "gpt@1"}, {"model": "other@1"}]}, 3, "its tensors are not those of gpt@1"),
        ({"models": [{"model": "gpt@1"}]}, 3, "there is nothing to merge"),
    ],
)
def test_what_cannot_be_merged_is_said(registry: Registry, tide: Tide, spec: Any, code: int, said: str) -> None:
    ended, _, err = tide("merge", tide.file(**spec, method={"name": "linear"}, output={"model": "no"}))
    assert ended == code
    assert said in err
    assert "no" not in registry.models()


def test_a_quantized_version_is_measured_beside_its_parent(registry: Registry, tide: Tide) -> None:
    code, document, _ = tide("quantize", "gpt@2", "--bits", "8", "--evaluate", "code")
    assert (code, document["model"], document["number"]) == (0, "gpt-int8", 1)
    assert document["provenance"]["lineage"] == {"relation": "quantized", "parents": ["gpt@2"]}
    assert document["num_parameters"] == registry.get("gpt@2").num_parameters
    assert document["bytes_after"] < 0.3 * document["bytes_before"]
    before, after = (one["metrics"]["bits_per_byte"] for one in document["measured"])
    assert after == pytest.approx(before, rel=0.01)
    code, four, _ = tide("quantize", "gpt@2", "--bits", "4", "--as", "small", "--keep", "embedding.*")
    assert (code, four["model"], four["provenance"]["tags"]) == (
        0,
        "small",
        {"bits": "4", "group": "32", "keep": "embedding.*"},
    )
    code, items, _ = tide("models", "evaluate", "gpt@2", "gpt-int8", "--on", "code", "--samples", "64")
    assert [one["model"] for one in items["items"]] == ["gpt@2", "gpt-int8@1"]


def test_a_pruned_version_is_a_finetune_of_its_parent(registry: Registry, tide: Tide) -> None:
    code, document, _ = tide("models", "prune", "gpt@2", "--sparsity", "0.3", "--evaluate", "code")
    assert (code, document["model"]) == (0, "gpt-pruned")
    assert document["provenance"]["lineage"] == {"relation": "finetune", "parents": ["gpt@2"]}
    assert document["sparsity"] == pytest.approx(0.3, abs=0.001)
    assert len(document["measured"]) == 2


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("quantize", "gpt@2", "--bits", "8", "--group", "64"), 2, "--group has no effect"),
        (("quantize", "gpt@2", "--bits", "4", "--group", "7"), 2, "--group is 7"),
        (("quantize", "gpt@2", "--bits", "3"), 2, "'3' is not"),
        (("quantize", "none", "--bits", "8"), 4, "there is no model 'none'"),
        (("quantize", "gpt@2", "--bits", "8", "--as", "No Name"), 3, "cannot name a model"),
        (("quantize", "gpt@2", "--bits", "8", "--evaluate", "nowhere"), 4, "nowhere"),
        (("quantize", "gpt@2", "--bits", "8", "--evaluate", "code", "--evaluate", "code"), 2, "named twice"),
        (("models", "prune", "gpt@2", "--sparsity", "1"), 2, "--sparsity is 1"),
    ],
)
def test_mistakes_are_told_before_any_work(
    registry: Registry, tide: Tide, argv: tuple[str, ...], code: int, said: str
) -> None:
    ended, _, err = tide(*argv)
    assert ended == code
    assert said in err


def test_a_table_shows_models_beside_each_other(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["quantize", "gpt@3", "--bits", "8", "--evaluate", "code", "--as", "shown"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("shown@1: 9 matrices of gpt@3 in 8 bits")
    assert lines[1].split()[:3] == ["MODEL", "DATA", "SET"]
    assert [line.split()[0] for line in lines[2:]] == ["gpt@3", "shown@1"]


def test_shells_complete_models_and_their_versions(registry: Registry) -> None:
    assert "gpt" in version_names("gp")
    assert version_names("gpt@") == ["gpt@1", "gpt@2", "gpt@3", "gpt@latest"]
    assert version_names("nothing@") == []


KILLED = """
import os, signal, sys
from orchestrator.cli.main import main
from orchestrator.registry import Registry
Registry.register = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""


def test_a_kill_before_registration_leaves_no_version_and_is_swept(registry: Registry, tide: Tide) -> None:
    file = tide.file(models=BOTH, method={"name": "linear"}, output={"model": "killed"})
    done = subprocess.run([sys.executable, "-c", KILLED, "merge", file], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    left = registry.root.parent / "transforms"
    assert len(list(left.glob(".work-*/model/model.safetensors"))) == 1  # it was whole, and nobody's
    assert "killed" not in registry.models()
    assert tide("merge", file)[1]["number"] == 1
    assert list(left.glob(".work-*")) == []
