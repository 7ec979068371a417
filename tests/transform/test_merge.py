"""A merge of folders: identities, formats, what is refused, and that nothing is left half written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from jobs.transform.merge import Parent, Recipe, merge, plan_merge
from jobs.transform.quantize import quantize
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.merge import Dare, Linear, Method, Slerp, TaskArithmetic, Ties
from tests.transform.folders import ARGS, folder_of, tensors, weights_of
from tests.transform.test_blend import ALL, method


def parents(tmp_path: Path, *models: dict[str, Tensor], weights: tuple[float, ...] = ()) -> tuple[Parent, ...]:
    """Folders m@0, m@1 ... with these tensors."""
    shares = weights or (1.0,) * len(models)
    return tuple(
        Parent(name=f"m@{at}", folder=folder_of(tmp_path / f"m{at}", model), weight=weight)
        for at, (model, weight) in enumerate(zip(models, shares, strict=True))
    )


def recipe(how: Method, inputs: tuple[Parent, ...], dtype: str = "fp32") -> Recipe:
    """The first is the base, where the method has one."""
    if isinstance(how, Linear | Slerp):
        return Recipe(parents=inputs, method=how, dtype=dtype)
    return Recipe(parents=inputs[1:], base=inputs[0], method=how, dtype=dtype)


def merged(how: Recipe, out: Path) -> dict[str, Tensor]:
    merge(how, out)
    return weights_of(out)


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_weights_of_one_and_nothing_give_the_parent(tmp_path: Path) -> None:
    inputs = parents(tmp_path, tensors(1), tensors(2), weights=(1.0, 0.0))
    assert same(merged(recipe(method(Linear), inputs), tmp_path / "out"), tensors(1))


@pytest.mark.parametrize(("t", "seed"), [(0, 1), (1, 2)])
def test_the_ends_of_the_arc_are_the_parents(tmp_path: Path, t: float, seed: int) -> None:
    found = merged(recipe(method(Slerp, t=t), parents(tmp_path, tensors(1), tensors(2))), tmp_path / "out")
    for name, wanted in tensors(seed).items():
        torch.testing.assert_close(found[name], wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize("how", ALL, ids=lambda how: how.name)
def test_a_merge_of_equal_models_is_the_model(tmp_path: Path, how: Method) -> None:
    inputs = parents(tmp_path, tensors(1), tensors(1), tensors(1))
    found = merged(recipe(how, inputs[:2] if isinstance(how, Slerp) else inputs), tmp_path / "out")
    for name, wanted in tensors(1).items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("how", [one for one in ALL if not isinstance(one, Slerp)], ids=lambda how: how.name)
def test_the_order_of_models_changes_no_bit(tmp_path: Path, how: Method) -> None:
    inputs = parents(tmp_path, *map(tensors, range(4)), weights=(1.0, 0.3, 0.9, -0.4))
    one = recipe(how, inputs)
    other = Recipe(parents=one.parents[::-1], base=one.base, method=how)
    assert same(merged(one, tmp_path / "one"), merged(other, tmp_path / "other"))


def test_the_seed_decides_what_is_dropped(tmp_path: Path) -> None:
    inputs = parents(tmp_path, tensors(1), tensors(2))
    found = [
        merged(recipe(method(Dare, seed=seed), inputs), tmp_path / f"out{at}") for at, seed in enumerate((7, 7, 8))
    ]
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("written", ["fp32", "bf16", "fp16"])
def test_sums_are_fp32_whatever_the_format(tmp_path: Path, dtype: torch.dtype, written: str) -> None:
    """Eleven bf16 models summed in bf16 would be off by percents; the one rounding here is the one at the end."""
    models = [tensors(seed, dtype) for seed in range(11)]
    found = merged(recipe(method(Linear), parents(tmp_path, *models), written), tmp_path / "out")
    for name in models[0]:
        wanted = torch.stack([model[name].double() for model in models]).mean(0)
        assert found[name].dtype == {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[written]
        torch.testing.assert_close(found[name].double(), wanted.to(found[name].dtype).double(),
                                   rtol={"fp32": 1e-6, "bf16": 2**-7, "fp16": 2**-10}[written], atol=1e-6)  # fmt: skip


def test_models_of_several_formats_merge(tmp_path: Path) -> None:
    inputs = parents(tmp_path, tensors(1, torch.bfloat16), tensors(2, torch.float16), tensors(3))
    found = merged(recipe(method(Linear), inputs), tmp_path / "out")
    wanted = (tensors(1, torch.bfloat16)["wide"].double() + tensors(2, torch.float16)["wide"] + tensors(3)["wide"]) / 3
    torch.testing.assert_close(found["wide"].double(), wanted, rtol=1e-6, atol=1e-6)


def test_tiny_tensors_are_merged_like_all_others(tmp_path: Path) -> None:
    """Tools that count what is kept of a difference drop those of small tensors."""
    inputs = parents(tmp_path, tensors(1), tensors(2))
    found = merged(recipe(method(Ties, density=0.01), inputs), tmp_path / "out")
    for name in ("one", "scalar"):
        torch.testing.assert_close(found[name], tensors(2)[name], rtol=1e-6, atol=1e-6)
    assert int((found["norm"] != tensors(1)["norm"]).sum()) == 1


def test_counts_are_copied_and_must_be_equal(tmp_path: Path) -> None:
    counts = {"seen": torch.arange(5), "mask": torch.tensor([True, False])}
    one, other = {**tensors(1), **counts}, {**tensors(2), **counts}
    found = merged(recipe(method(Linear), parents(tmp_path, one, other)), tmp_path / "out")
    assert torch.equal(found["seen"], counts["seen"])
    assert torch.equal(found["mask"], counts["mask"])
    other["seen"] = torch.arange(5) + 1
    with pytest.raises(UserError, match="seen is of type I64, which cannot be averaged") as refused:
        merge(recipe(method(Linear), parents(tmp_path / "again", one, other)), tmp_path / "no")
    assert refused.value.where == "m@1"


@pytest.mark.parametrize("how", ALL, ids=lambda how: how.name)
def test_the_plan_tells_what_is_read_and_written(tmp_path: Path, how: Method) -> None:
    inputs = parents(tmp_path, tensors(1, torch.bfloat16), tensors(2), tensors(3))
    wanted = recipe(how, inputs[:2] if isinstance(how, Slerp) else inputs, "bf16")
    read: list[int] = []
    plan = plan_merge(wanted)
    assert merge(wanted, tmp_path / "out", on_read=read.append) == plan
    assert (sum(read), plan.num_tensors) == (plan.read_bytes, 6)
    assert plan.written_bytes == sum(tensor.nbytes for tensor in weights_of(tmp_path / "out").values())
    assert plan.num_parameters == sum(tensor.numel() for tensor in tensors(1).values())


def test_everything_but_weights_comes_from_the_base(tmp_path: Path) -> None:
    inputs = parents(tmp_path, tensors(1), tensors(2))
    (inputs[0].folder / "code").mkdir()
    (inputs[0].folder / "code" / "task.py").write_text("x = 1\n")
    (inputs[0].folder / "model.safetensors.index.json").write_text("{}")
    merge(recipe(method(TaskArithmetic), inputs), tmp_path / "out")
    names = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert names == ["code/task.py", "config.json", "model.safetensors"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["args"], "run" in config, "step" in config) == (ARGS, False, False)
    assert config["transform"] == {
        "relation": "merge",
        "method": {"name": "task_arithmetic", "scale": 1.0},
        "models": [{"model": "m@1", "weight": 1.0}],
        "base": "m@0",
        "dtype": "fp32",
    }


def test_a_configuration_tells_the_type_that_is_written(tmp_path: Path) -> None:
    inputs = parents(tmp_path, tensors(1), tensors(2))
    for parent in inputs:
        config = {"architectures": ["Some"], "torch_dtype": "float32"}
        (parent.folder / "config.json").write_text(json.dumps(config))
    merge(recipe(method(Linear), inputs, "bf16"), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["torch_dtype"], "dtype" in config) == ("bfloat16", False)


def refusal(tmp_path: Path, inputs: tuple[Parent, ...], how: Method | None = None, dtype: str = "fp32") -> UserError:
    with pytest.raises(UserError) as refused:
        merge(recipe(how or method(Linear), inputs, dtype), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    return refused.value


def test_another_architecture_is_named_tensor_by_tensor(tmp_path: Path) -> None:
    other = {**tensors(2), "more": torch.ones(2), "wide": torch.ones(6, 71)}
    del other["norm"]
    said = refusal(tmp_path, parents(tmp_path, tensors(1), other))
    assert str(said) == (
        "m@1: its tensors are not those of m@0: norm is missing; more is unknown; wide is 6x71 instead of 6x70."
        " Merge versions of one architecture."
    )


def test_weights_of_one_shape_and_another_meaning_are_refused(tmp_path: Path) -> None:
    one = Parent(name="a@1", folder=folder_of(tmp_path / "a", tensors(1)))
    other = Parent(name="b@1", folder=folder_of(tmp_path / "b", tensors(2), {**ARGS, "heads": 4}))
    said = refusal(tmp_path, (one, other))
    assert said.problem == "its configuration is not that of a@1: args.heads is 4 instead of 2"


def test_experts_may_have_had_another_dropout(tmp_path: Path) -> None:
    one = Parent(name="a@1", folder=folder_of(tmp_path / "a", tensors(1)))
    other = Parent(name="b@1", folder=folder_of(tmp_path / "b", tensors(2), {**ARGS, "dropout": 0.2}))
    merge(recipe(method(Linear), (one, other)), tmp_path / "out")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("how", ALL, ids=lambda how: how.name)
def test_a_number_that_is_none_is_named_with_its_model(tmp_path: Path, bad: float, how: Method) -> None:
    broken = tensors(2)
    broken["tall"][3, 1] = bad
    said = refusal(tmp_path, parents(tmp_path, tensors(1), broken), how)
    assert (said.where, said.problem.partition(";")[0]) == ("m@1", "tall holds numbers that are not finite")


def test_a_format_that_cannot_hold_a_number_is_refused(tmp_path: Path) -> None:
    big = {**tensors(1), "one": torch.tensor([1e5])}
    said = refusal(tmp_path, parents(tmp_path, big, big), dtype="fp16")
    assert (said.where, said.problem) == ("one", "a merged number is 1e+05, and fp16 ends at 6.55e+04")


def test_a_quantized_model_is_refused(tmp_path: Path) -> None:
    (one,) = parents(tmp_path, tensors(1))
    quantize("m@0", one.folder, tmp_path / "small", bits=8)
    said = refusal(tmp_path, (one, Parent(name="small@1", folder=tmp_path / "small")))
    assert (said.where, said.problem) == ("small@1", "it is quantized, and only full weights can be merged")


def test_damaged_and_missing_weights_are_refused(tmp_path: Path) -> None:
    one, other = parents(tmp_path, tensors(1), tensors(2))
    file = other.folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert refusal(tmp_path, (one, other)).where == str(file)
    file.unlink()
    assert refusal(tmp_path, (one, other)).code is ExitCode.UNKNOWN


def test_a_file_in_the_way_is_kept(tmp_path: Path) -> None:
    inputs = parents(tmp_path, tensors(1), tensors(2))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UserError, match="is there already") as refused:
        merge(recipe(method(Linear), inputs), tmp_path / "out")
    assert refused.value.code is ExitCode.CONFLICT


def test_an_interrupted_merge_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    inputs = parents(tmp_path, tensors(1), tensors(2))
    with pytest.raises(KeyboardInterrupt):
        merge(recipe(method(Linear), inputs), tmp_path / "out", on_read=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m0", "m1"]


def test_weights_in_several_files_become_one(tmp_path: Path) -> None:
    one, other = parents(tmp_path, tensors(1), tensors(2))
    parts = list(tensors(2).items())
    (other.folder / "model.safetensors").unlink()
    for at, part in enumerate((parts[:2], parts[2:])):
        save_file(dict(part), other.folder / f"model-0000{at + 1}-of-00002.safetensors")
    found = merged(recipe(method(Linear), (one, other)), tmp_path / "out")
    np.testing.assert_allclose(found["tall"], (tensors(1)["tall"] + tensors(2)["tall"]) / 2, rtol=1e-6)
