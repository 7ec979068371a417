"""From a name in a YAML file to a task, and what is said about every name that leads nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.models.gpt import GPTTask, task
from jobs.models.task import Task, load_task, num_parameters
from orchestrator.spec.errors import ExitCode, UserError

GPT = "jobs.models.gpt:task"


def gpt(args: dict[str, Any]) -> GPTTask:
    loaded = load_task(GPT, args)
    assert isinstance(loaded, GPTTask)
    return loaded


def test_text_from_yaml_is_read_as_the_factory_annotates() -> None:
    config = gpt({"layers": "3", "d_model": 32, "heads": "2", "dropout": "0.25"}).config
    assert (config.layers, config.d_model, config.heads, config.dropout) == (3, 32, 2, 0.25)
    assert gpt({"d_model": "768"}).config.heads == 12
    assert gpt({"heads": "null", "d_model": "128"}).config.heads == 2


@pytest.mark.parametrize(
    ("name", "args", "message", "advice"),
    [
        ("gpt", {}, "not of the form module.path:factory", "jobs.models.gpt:task"),
        ("a.b:c:d", {}, "not of the form", ""),
        ("../evil:task", {}, "not of the form", ""),
        ("jobs.models.gtp:task", {}, "no module 'jobs.models.gtp'", "Did you mean 'jobs.models.gpt'?"),
        ("jbos.models.gpt:task", {}, "no module 'jbos.models.gpt'", "Did you mean 'jobs.models.gpt'?"),
        ("a_module_nobody_has:task", {}, "no module 'a_module_nobody_has'", "runtime.working_dir"),
        ("jobs.models.gpt:tsk", {}, "has no 'tsk'", "Did you mean 'task'?"),
        ("jobs.models.gpt:zzz", {}, "has no 'zzz'", "It offers: "),
        (GPT, {"layer": 2}, "unknown argument 'layer'. Did you mean 'layers'?", ""),
        (GPT, {"colour": 2}, "unknown argument 'colour'. It takes layers, ", ""),
        (GPT, {"layers": "two"}, "argument 'layers' is 'two', which is not int", ""),
        (GPT, {"heads": 0}, "heads is 0, it must be at least 1", ""),
        (GPT, {"layers": 0}, "refuses its arguments: layers is 0", ""),
        (GPT, {"d_model": 30, "heads": 4}, "d_model is 30, it must be a multiple of", ""),
        (GPT, {"dropout": 1}, "dropout is 1, it must be at least 0 and below 1", ""),
    ],
)
def test_mistakes_say_what_was_probably_meant(name: str, args: dict[str, Any], message: str, advice: str) -> None:
    with pytest.raises(UserError) as caught:
        load_task(name, args)
    assert message in caught.value.problem
    assert advice in caught.value.next_step


@pytest.mark.parametrize("name", ["os:system", "subprocess:run", "builtins:exec", "jobs.models.task:num_parameters"])
def test_a_function_that_does_not_make_tasks_is_never_called(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "called"
    with pytest.raises(UserError, match="does not say that it makes a task"):
        load_task(name, {"command": f"touch {marker}", "args": f"touch {marker}"})
    assert not marker.exists()


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_module_that_fails_says_so_with_its_own_error(modules: Path) -> None:
    (modules / "broken_task.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match="fails to import: ZeroDivisionError"):
        load_task("broken_task:task")
    (modules / "needy_task.py").write_text("import a_package_nobody_has\n")
    with pytest.raises(UserError, match="needs 'a_package_nobody_has', which is not installed"):
        load_task("needy_task:task")


def test_missing_arguments_are_all_named(modules: Path) -> None:
    text = "from jobs.models.task import Task\ndef make(width: int, depth: int) -> Task: return None\n"
    (modules / "strict_task.py").write_text(text)
    with pytest.raises(UserError, match="'width' is missing; argument 'depth' is missing"):
        load_task("strict_task:make")
    with pytest.raises(UserError, match="returned a NoneType without build_model"):
        load_task("strict_task:make", {"width": 1, "depth": "2"})


@pytest.mark.parametrize(("text", "value"), [("true", True), ("no", False), (True, True)])
def test_booleans_are_read_in_words(modules: Path, text: object, value: bool) -> None:
    source = "from jobs.models.task import Task\nclass T(Task):\n    def __init__(self, deep: bool): self.deep = deep\n"
    (modules / "flag_task.py").write_text(source)
    assert load_task("flag_task:T", {"deep": text}).deep is value  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="'maybe', which is not bool"):
        load_task("flag_task:T", {"deep": "maybe"})


def test_unknown_names_have_their_own_exit_code() -> None:
    with pytest.raises(UserError) as caught:
        load_task("jobs.models.gtp:task")
    assert caught.value.code is ExitCode.UNKNOWN


def test_parameters_are_counted_without_being_allocated() -> None:
    assert num_parameters(task(layers=48, d_model=6144, heads=48)) > 20e9


def test_defaults_come_with_the_protocol() -> None:
    class Smallest(Task):
        tokens_per_sample = 10

        def build_model(self) -> Any:
            return task(layers=1, d_model=32, heads=1).build_model()

    smallest = Smallest()
    assert smallest.flops_per_sample() == 60 * num_parameters(smallest)
    assert smallest.metrics(0.5) == {"loss": 0.5}
