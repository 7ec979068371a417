"""What a registry promises: numbers, sharing, aliases, lineage, verification."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from orchestrator.registry import CorruptRegistryError, Provenance, Registry, RegistryError, Relation, UnknownModelError
from tests.registry.models import PROVENANCE, child_of, model_folder


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models", now=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


def flip_bit(path: Path, offset: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def blobs(registry: Registry) -> list[Path]:
    return [path for path in (registry.root / "blobs").rglob("*") if path.is_file()]


def test_a_registered_version_reads_back_equal(registry: Registry, tmp_path: Path) -> None:
    version = registry.register("gpt-demo", model_folder(tmp_path / "a"), PROVENANCE)
    assert (version.ref, version.num_parameters, version.provenance) == ("gpt-demo@1", 15, PROVENANCE)
    assert registry.get("gpt-demo@1") == version == registry.get("gpt-demo")
    assert [entry.path for entry in version.files] == ["config.json", "model.safetensors"]


def test_the_folder_opens_like_any_model_folder_also_after_the_registry_moved(
    registry: Registry, tmp_path: Path
) -> None:
    source = model_folder(tmp_path / "a")
    version = registry.register("gpt-demo", source, PROVENANCE)
    moved = Registry(registry.root.rename(tmp_path / "elsewhere"))
    loaded, original = (load_file(folder / "model.safetensors") for folder in (moved.folder(version), source))
    assert all(np.array_equal(loaded[name], original[name]) for name in original)


def test_numbers_count_up_and_versions_keep_their_order(registry: Registry, tmp_path: Path) -> None:
    for seed in range(11):
        registry.register("m", model_folder(tmp_path / str(seed), seed), PROVENANCE)
    assert [version.number for version in registry.versions("m")] == list(range(1, 12))
    assert registry.get("m@latest").number == 11


def test_repeating_a_registration_returns_the_version_that_is_there(registry: Registry, tmp_path: Path) -> None:
    source = model_folder(tmp_path / "a")
    first = registry.register("m", source, PROVENANCE)
    registry.register("m", model_folder(tmp_path / "b", 1), PROVENANCE)
    assert registry.register("m", source, PROVENANCE) == first
    assert len(registry.versions("m")) == 2


def test_the_same_weights_with_another_origin_are_a_new_version_that_shares_blobs(
    registry: Registry, tmp_path: Path
) -> None:
    source = model_folder(tmp_path / "a")
    registry.register("m", source, PROVENANCE)
    again = registry.register("m", source, dataclasses.replace(PROVENANCE, run="demo/2"))
    assert again.number == 2
    assert len(blobs(registry)) == 2


def test_blobs_are_read_only_and_named_by_their_content(registry: Registry, tmp_path: Path) -> None:
    registry.register("m", model_folder(tmp_path / "a"), PROVENANCE)
    for blob in blobs(registry):
        assert blob.name == hashlib.sha256(blob.read_bytes()).hexdigest()
        assert blob.stat().st_mode & 0o222 == 0


def test_concurrent_registrations_get_distinct_numbers_without_gaps(registry: Registry, tmp_path: Path) -> None:
    sources = [model_folder(tmp_path / str(seed), seed) for seed in range(8)]
    start, numbers = threading.Barrier(8), []

    def register(source: Path) -> None:
        start.wait()
        numbers.append(Registry(registry.root).register("m", source, PROVENANCE).number)

    threads = [threading.Thread(target=register, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 9))
    assert all(registry.verify(version) == () for version in registry.versions("m"))
    assert [entry.name for entry in (registry.root / "staging").iterdir()] == [".gate"]


def test_concurrent_repeats_of_one_registration_make_one_version(registry: Registry, tmp_path: Path) -> None:
    source, start, numbers = model_folder(tmp_path / "a"), threading.Barrier(6), []

    def register() -> None:
        start.wait()
        numbers.append(registry.register("m", source, PROVENANCE).number)

    threads = [threading.Thread(target=register) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(numbers) == {1}


def test_a_flipped_bit_is_named_with_its_file(registry: Registry, tmp_path: Path) -> None:
    version = registry.register("m", model_folder(tmp_path / "a"), PROVENANCE)
    assert registry.verify(version) == ()
    flip_bit((registry.folder(version) / "model.safetensors").resolve())
    assert [damage.path for damage in registry.verify(version)] == ["model.safetensors"]


def test_a_missing_blob_is_named_with_its_file(registry: Registry, tmp_path: Path) -> None:
    version = registry.register("m", model_folder(tmp_path / "a"), PROVENANCE)
    (registry.folder(version) / "config.json").resolve().unlink()
    (damage,) = registry.verify(version)
    assert (damage.path, damage.problem) == ("config.json", "cannot be read: No such file or directory")


def test_registering_good_bytes_again_mends_a_rotten_blob(registry: Registry, tmp_path: Path) -> None:
    source = model_folder(tmp_path / "a")
    version = registry.register("m", source, PROVENANCE)
    flip_bit((registry.folder(version) / "model.safetensors").resolve())
    registry.register("m", source, PROVENANCE)
    assert registry.verify(version) == ()


def test_an_altered_manifest_is_refused(registry: Registry, tmp_path: Path) -> None:
    registry.register("m", model_folder(tmp_path / "a"), PROVENANCE)
    path = registry.root / "models/m/versions/1/manifest.json"
    content = path.read_text()
    path.chmod(0o644)
    path.write_text(content.replace("2.5", "1.5"))
    with pytest.raises(CorruptRegistryError) as caught:
        registry.get("m@1")
    assert caught.value.where == str(path)


def test_aliases_follow_what_they_were_set_to(registry: Registry, tmp_path: Path) -> None:
    for seed in range(3):
        registry.register("m", model_folder(tmp_path / str(seed), seed), PROVENANCE)
    registry.set_alias("m@1", "champion")
    assert registry.get("m@champion").number == 1
    registry.set_alias("m@latest", "champion")
    assert (registry.get("m@champion").number, registry.aliases("m")) == (3, {"champion": 3})
    registry.remove_alias("m", "champion")
    assert registry.aliases("m") == {}


def test_lineage_is_pinned_to_numbers_and_moves_with_no_alias(registry: Registry, tmp_path: Path) -> None:
    registry.register("base", model_folder(tmp_path / "a"), PROVENANCE)
    registry.register("other", model_folder(tmp_path / "b", 1), PROVENANCE)
    registry.set_alias("base@1", "champion")
    parents = ("base@champion", "other", "hf://org/model@main")
    merged = registry.register("merged", model_folder(tmp_path / "c", 2), child_of(*parents, relation=Relation.MERGE))
    assert merged.provenance.lineage is not None
    assert merged.provenance.lineage.parents == ("base@1", "other@1", "hf://org/model@main")


@pytest.mark.parametrize("ref", ["absent", "m@2", "m@0", "m@nobody"])
def test_what_is_not_there_is_unknown(registry: Registry, tmp_path: Path, ref: str) -> None:
    registry.register("m", model_folder(tmp_path / "a"), PROVENANCE)
    with pytest.raises(UnknownModelError):
        registry.get(ref)


@pytest.mark.parametrize("name", ["", "../up", "a/b", "A", ".hidden", "a.b", "a" * 64, "a\n", "m@"])
def test_names_that_are_no_folder_names_are_refused(registry: Registry, tmp_path: Path, name: str) -> None:
    source = model_folder(tmp_path / "a")
    with pytest.raises(RegistryError):
        registry.register(name, source, PROVENANCE)
    with pytest.raises(RegistryError):
        registry.get(name if name else "@1")


@pytest.mark.parametrize("alias", ["latest", "3", "", "../x", "Champion"])
def test_aliases_that_would_shadow_or_escape_are_refused(registry: Registry, tmp_path: Path, alias: str) -> None:
    registry.register("m", model_folder(tmp_path / "a"), PROVENANCE)
    with pytest.raises(RegistryError):
        registry.set_alias("m@1", alias)


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _with_pickle(folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"\x80\x04.")


def _with_truncated_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])


def _with_broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize("spoil", [_without_weights, _with_pickle, _with_truncated_weights, _with_broken_config])
def test_a_folder_that_is_no_model_is_refused_and_leaves_no_trace(registry: Registry, tmp_path: Path, spoil) -> None:
    source = model_folder(tmp_path / "a")
    spoil(source)
    with pytest.raises(RegistryError):
        registry.register("m", source, PROVENANCE)
    assert registry.models() == ()
    assert blobs(registry) == []


@pytest.mark.parametrize(
    "provenance",
    [Provenance(metrics={"loss": float("nan")}), child_of("absent@1"), child_of(), child_of("http://x/y@1")],
)
def test_provenance_that_cannot_be_kept_is_refused(registry: Registry, tmp_path: Path, provenance: Provenance) -> None:
    with pytest.raises(RegistryError):
        registry.register("m", model_folder(tmp_path / "a"), provenance)
    assert registry.models() == ()


def test_the_error_for_an_unknown_model_says_what_to_do(registry: Registry) -> None:
    with pytest.raises(UnknownModelError) as caught:
        registry.get("absent@3")
    assert str(caught.value) == (
        f"there is no model 'absent' in {registry.root}. Run 'tide models ls' for what there is."
    )
