"""What the seam stands on in Ray Train's private parts, as a list, and whether the installed Ray has it.

The contract test asserts that nothing is missing; a run asks the same and goes through the public tier where something
is. Imports none of the private names at the top: one that is gone is an answer here, no crash.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from typing import Any

_INTERNAL = "ray.train.v2._internal"
_CONTROLLER = f"{_INTERNAL}.execution.controller"
_GROUP = f"{_INTERNAL}.execution.worker_group"
_SCALING = f"{_INTERNAL}.execution.scaling_policy"
_TRAINER = "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer"

# Parameters of functions that are overridden or called, without `self`.
SIGNATURES: dict[str, tuple[str, ...]] = {
    f"{_CONTROLLER}:TrainController.__init__": (
        "train_fn_ref",
        "train_run_context",
        "scaling_policy",
        "failure_policy",
        "callbacks",
        "validation_config",
    ),
    f"{_CONTROLLER}:TrainController._step": (),
    f"{_CONTROLLER}:TrainController._poll_workers": (),
    f"{_CONTROLLER}:TrainController._shutdown_worker_group": (),
    f"{_CONTROLLER}:TrainController._get_run_attempt_id": (),
    f"{_TRAINER}._initialize_and_run_controller": ("controller_init_kwargs",),
    f"{_TRAINER}._create_default_callbacks": (),
    f"{_GROUP}:WorkerGroup.__init__": ("train_run_context", "worker_group_context", "callbacks"),
    f"{_GROUP}:WorkerGroup._assign_worker_ranks": (
        "workers",
        "starting_world_rank",
        "world_size",
        "replica_group_size",
    ),
    f"{_GROUP}:WorkerGroup._init_train_context": ("workers", "sync_actor"),
    f"{_GROUP}:WorkerGroup._clear_state": (),
    f"{_GROUP}:WorkerGroup._get_worker_runtime_env": ("custom_runtime_env",),
    f"{_GROUP}.worker:RayTrainWorker.execute": ("fn", "fn_args", "fn_kwargs"),
    f"{_GROUP}.worker:RayTrainWorker.run_train_fn": ("train_fn_ref",),
    f"{_GROUP}.worker:RayTrainWorker.get_metadata": (),
    f"{_GROUP}.thread_runner:ThreadRunner.is_running": (),
    f"{_SCALING}:ScalingPolicy.after_controller_start": ("train_run_context",),
    f"{_SCALING}:ScalingPolicy.before_controller_abort": (),
}

# The first fields of values that are made or read.
FIELDS: dict[str, tuple[str, ...]] = {
    f"{_GROUP}.state:WorkerGroupState": ("start_time", "placement_group_handle", "workers", "sync_actor"),
    f"{_SCALING}:ResizeDecision": ("num_workers", "resources_per_worker"),
    f"{_CONTROLLER}.controller:TrainControllerLoopIterationResult": (
        "run_attempt_id",
        "previous_state",
        "next_state",
    ),
    f"{_GROUP}:WorkerGroupContext": ("run_attempt_id", "train_fn_ref", "num_workers", "resources_per_worker"),
    f"{_GROUP}.worker:Worker": ("actor", "metadata", "resources"),
}

# Attributes that Ray's constructors set and the seam reads or writes.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    f"{_CONTROLLER}:TrainController.__init__": (
        "_worker_group",
        "_run_config",
        "_worker_group_callbacks_to_propagate",
        "_latest_poll_time",
        "_train_fn_ref",
        "_train_run_context",
        "_scaling_policy",
    ),
    f"{_GROUP}:WorkerGroup.__init__": ("_worker_group_state",),
}

# Ray adds this one to methods of a class that some process has made an actor of.
_ADDED = ("self", "_ray_trace_ctx")


def broken() -> tuple[str, ...]:
    """What of all this the installed Ray does not have, a sentence each; nothing when the seam holds."""
    found = [
        *(_signature(place, expected) for place, expected in SIGNATURES.items()),
        *(_fields(place, expected) for place, expected in FIELDS.items()),
        *(_attributes(place, expected) for place, expected in ATTRIBUTES.items()),
        _seam(),
    ]
    return tuple(sentence for sentence in found if sentence)


def _signature(place: str, expected: tuple[str, ...]) -> str:
    function = _find(place)
    if function is None:
        return f"{place} is gone"
    names = tuple(name for name in inspect.signature(function).parameters if name not in _ADDED)
    return "" if names == expected else f"{place} takes {names}, not {expected}"


def _fields(place: str, expected: tuple[str, ...]) -> str:
    kind = _find(place)
    if kind is None or not dataclasses.is_dataclass(kind):
        return f"{place} is gone, or no dataclass any more"
    names = tuple(field.name for field in dataclasses.fields(kind))[: len(expected)]
    return "" if names == expected else f"{place} begins with {names}, not {expected}"


def _attributes(place: str, expected: tuple[str, ...]) -> str:
    function = _find(place)
    if function is None:
        return f"{place} is gone"
    source = inspect.getsource(inspect.unwrap(function))
    missing = [name for name in expected if f"self.{name}" not in source]
    return f"{place} does not set {missing}" if missing else ""


def _seam() -> str:
    """The seam's own modules can be imported: every private name they use is where it was."""
    try:
        importlib.import_module("orchestrator.adapters.ray_train.seam")
    except (ImportError, AttributeError) as error:
        return str(error)
    return ""


def _find(place: str) -> Any:
    module, _, path = place.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError):
        return None
    return found
