"""From `module.path:factory` and arguments to a task, with an error a person can act on for every way to get it wrong.

Names may come from files that others wrote (a model directory's config.json), so a name alone must not be able to run
any function of any library: a factory is called only when it says, by its annotation or its class, that it makes a
task.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import typing
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from jobs.models.task import Task
from orchestrator.spec.errors import ExitCode, UserError

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_METHODS = ("build_model", "open_data", "loss", "sample_weights", "metrics", "flops_per_sample")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def resolve_task(name: str, args: dict[str, Any]) -> Task:
    """Import, check, call. Raises: UserError."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"task {name!r} is not of the form module.path:factory", next_step="For example jobs.models.gpt:task"
        )
    module_name, factory_name = name.split(":")
    factory = _factory(_module(module_name, name), factory_name, name)
    values = _arguments(factory, args, name)
    try:
        task = factory(**values)
    except (ValueError, TypeError) as error:
        raise UserError(f"task {name} refuses its arguments: {error}", where=_shown(args)) from error
    missing = [method for method in _METHODS if not callable(getattr(task, method, None))]
    if missing:
        raise UserError(
            f"task {name} returned a {type(task).__name__} without {', '.join(missing)}", next_step=_PROTOCOL
        )
    return typing.cast(Task, task)


_PROTOCOL = "The protocol is jobs.models.task.Task; inheriting from it gives defaults for the optional methods."


def _module(module_name: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if not (module_name == missing or module_name.startswith(missing + ".")):
            raise UserError(f"module {module_name} of task {name} needs {missing!r}, which is not installed") from error
        advice = _did_you_mean_module(module_name, missing)
        problem = f"there is no module {module_name!r} (task {name})"
        raise UserError(problem, code=ExitCode.UNKNOWN, next_step=advice or _WORKING_DIR) from error
    except Exception as error:  # whatever the user's module does at import
        problem = f"module {module_name} of task {name} fails to import: {type(error).__name__}: {error}"
        raise UserError(problem) from error


_WORKING_DIR = "A module of your own must lie in the job's runtime.working_dir."


def _did_you_mean_module(module_name: str, missing: str) -> str:
    """Advice from the modules beside `missing`, the first part of `module_name` that is not there."""
    parent, _, last = missing.rpartition(".")
    spec = importlib.util.find_spec(parent) if parent else None
    folders = list(spec.submodule_search_locations or ()) if spec else None
    near = difflib.get_close_matches(last, [module.name for module in pkgutil.iter_modules(folders)], n=1)
    if not near:
        return ""
    meant = ".".join(filter(None, (parent, near[0]))) + module_name.removeprefix(missing)
    return f"Did you mean {meant!r}?"


def _factory(module: ModuleType, factory_name: str, name: str) -> Callable[..., object]:
    found = getattr(module, factory_name, None)
    if found is None:
        makers = [key for key, value in vars(module).items() if callable(value) and _promises_task(value)]
        problem = f"module {module.__name__} has no {factory_name!r} (task {name})"
        advice = _did_you_mean(factory_name, makers) or (
            f"It offers: {', '.join(sorted(makers))}." if makers else _PROTOCOL
        )
        raise UserError(problem, code=ExitCode.UNKNOWN, next_step=advice)
    if not callable(found) or not _promises_task(found):
        problem = f"{name} does not say that it makes a task"
        raise UserError(problem, next_step=f"Annotate it: def {factory_name}(...) -> Task. {_PROTOCOL}")
    return typing.cast(Callable[..., object], found)


def _promises_task(factory: object) -> bool:
    """True for a task class, and for a function annotated to return one."""
    promised = factory if inspect.isclass(factory) else _annotations(factory).get("return")
    return inspect.isclass(promised) and all(callable(getattr(promised, method, None)) for method in _METHODS)


def _annotations(function: object) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # an annotation that cannot be evaluated, or no function at all
        return {}


def _arguments(factory: Callable[..., object], args: dict[str, Any], name: str) -> dict[str, Any]:
    parameters = inspect.signature(factory).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    unknown = [] if takes_any else [key for key in args if key not in named]
    missing = [key for key, p in named.items() if p.default is p.empty and key not in args]
    problems = [f"unknown argument {key!r}. {_did_you_mean(key, named) or _known(named)}" for key in unknown]
    problems += [f"argument {key!r} is missing" for key in missing]
    if problems:
        raise UserError(f"task {name}: " + "; ".join(problems))
    hints = _annotations(factory.__init__ if inspect.isclass(factory) else factory)
    return {key: _typed(key, value, hints.get(key), name) for key, value in args.items()}


def _known(names: Iterable[str]) -> str:
    return f"It takes {', '.join(names) or 'none'}"


def _typed(key: str, value: Any, hint: Any, name: str) -> Any:
    """`value` as `hint` where it is text from YAML; anything else is left as it is."""
    wanted = next((kind for kind in (typing.get_args(hint) or (hint,)) if kind in (bool, int, float)), None)
    if not isinstance(value, str) or wanted is None:
        return value
    if value.lower() in ("null", "none") and type(None) in typing.get_args(hint):
        return None
    try:
        return _boolean(value) if wanted is bool else wanted(value)
    except ValueError as error:
        raise UserError(f"task {name}: argument {key!r} is {value!r}, which is not {wanted.__name__}") from error


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    raise ValueError(text)


def _did_you_mean(word: str, choices: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(choices), n=1)
    return f"Did you mean {near[0]!r}?" if near else ""


def _shown(args: dict[str, Any]) -> str:
    return "args {" + ", ".join(f"{key}: {value}" for key, value in args.items()) + "}"
