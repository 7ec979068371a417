"""`tide checkpoint`: list a run's checkpoints, verify, export, import and prune them, wherever they lie."""

from __future__ import annotations

import enum
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.bars import byte_bar
from orchestrator.cli.home import home_dir
from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.spec import TrainJob, load_one
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.names import require_name

if TYPE_CHECKING:
    from jobs.train.state.manifest import Manifest
    from jobs.train.state.storage import Storage

app = typer.Typer(no_args_is_help=True)

# A save that has not touched its file for so long has died.
_SURELY_ABANDONED_S = 3600.0

Job = Annotated[str, typer.Argument(help="Name of the job.", show_default=False)]
StorageUrl = Annotated[
    str | None,
    typer.Option(
        "--storage", help="The job's checkpoint.storage; default Tideline's state folder.", show_default=False
    ),
]
Step = Annotated[int | None, typer.Option("--step", help="Which checkpoint; default the newest.", show_default=False)]


class Form(enum.StrEnum):
    """What `export` writes."""

    MODEL = "model"
    UNIVERSAL = "universal"


@app.command("ls")
def list_checkpoints(job: Job, storage: StorageUrl = None, output: Output = Format.TABLE) -> None:
    """List a job's checkpoints, newest last."""
    from jobs.train.state.checkpoints import read_manifest, steps
    from jobs.train.state.errors import CorruptStateError

    place = _open(job, storage)
    items: list[dict[str, Any]] = []
    for step in steps(place, job):
        try:
            items.append(_described(read_manifest(place, job, step)))
        except CorruptStateError as error:
            items.append({"step": step, "problem": str(error)})
    columns = ("STEP", "WORKERS", "ZERO", "PRECISION", "SIZE", "MODEL PARAMETERS", "PROBLEM")
    table = make_table(columns, [_row(item) for item in items], right=columns[:6])
    nothing = f"job {job} has no checkpoints in {place.url}"
    emit(
        "CheckpointList", {"job": job, "storage": place.url, "items": items}, output, table=table if items else nothing
    )


@app.command("verify")
def verify_checkpoints(job: Job, step: Step = None, storage: StorageUrl = None, output: Output = Format.TABLE) -> int:
    """Read and check every block of a job's checkpoints, or of one of them; exit 3 if any is damaged."""
    from jobs.train.state.checkpoints import read_manifest, steps, verify
    from jobs.train.state.errors import CorruptStateError, StateError

    place = _open(job, storage)
    items: list[dict[str, Any]] = []
    for one in [step] if step is not None else _some(steps(place, job), job, place):
        try:
            manifest = read_manifest(place, job, one)
            with byte_bar(f"step {one}", manifest.nbytes) as on_bytes:
                problems: list[StateError] = verify(manifest, place, on_bytes)
        except CorruptStateError as error:
            problems = [error]
        items.append({"step": one, "sound": not problems, "problems": [str(problem) for problem in problems]})
    rows = [(item["step"], "sound" if item["sound"] else "DAMAGED", "\n".join(item["problems"])) for item in items]
    table = make_table(("STEP", "STATE", "PROBLEMS"), rows, right=("STEP",))
    emit("CheckpointCheck", {"job": job, "storage": place.url, "items": items}, output, table=table)
    return ExitCode.OK if all(item["sound"] for item in items) else ExitCode.INVALID


@app.command("export")
def export_checkpoint(
    job: Job,
    out_dir: Annotated[Path, typer.Argument(help="A new folder.", show_default=False)],
    step: Step = None,
    form: Annotated[Form, typer.Option("--format", help="model: safetensors; universal: DeepSpeed's.")] = Form.MODEL,
    storage: StorageUrl = None,
    output: Output = Format.TABLE,
) -> None:
    """Write a checkpoint as a plain model folder, or as a universal checkpoint that DeepSpeed itself loads."""
    from jobs.train.state.checkpoints import read_manifest, steps
    from jobs.train.state.export import export_model
    from jobs.train.state.universal import export_universal

    place = _open(job, storage)
    manifest = read_manifest(place, job, step if step is not None else _some(steps(place, job), job, place)[-1])
    export = export_model if form is Form.MODEL else export_universal
    export(manifest, place, out_dir)
    payload = {"job": job, "step": manifest.step, "format": form.value, "path": str(out_dir)}
    emit("CheckpointExport", payload, output, table=f"step {manifest.step} of {job} as {form.value} in {out_dir}")


@app.command("import")
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="The TrainJob that is to go on from it.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="A DeepSpeed checkpoint, of any number of ranks.", show_default=False)],
    step: Annotated[
        int | None, typer.Option("--step", min=0, help="Count it as this step; default its own.", show_default=False)
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Take over a DeepSpeed checkpoint (ZeRO 1, 2, 3): weights and moments become a job's first state."""
    from jobs.data import ensure_dataset, open_dataset
    from jobs.train.state.adopt import adopt, tag_folder

    job = load_one(file, TrainJob)
    spec, name = job.spec, job.metadata.name
    place = _open(name, spec.checkpoint.storage)
    dataset_hash = open_dataset(ensure_dataset(spec.data.dataset, home_dir())).manifest.hash
    total = sum(path.stat().st_size for path in tag_folder(folder).glob("*.pt"))
    with byte_bar(f"taking over {folder}", total) as advance:
        task = {"task": spec.task, "args": dict(spec.args)}
        manifest = adopt(folder, place, run=name, step=step, task=task, dataset_hash=dataset_hash, wrote=advance)
    payload = {"job": name, "storage": place.url, **_described(manifest)}
    line = f"{name} goes on after step {manifest.step}, with the state that {manifest.world_size} ranks had saved"
    if manifest.step >= spec.steps:
        line += f"; it has {spec.steps} steps, so raise them"
    emit("CheckpointImport", payload, output, table=line)


@app.command("gc")
def collect_garbage(
    job: Job,
    keep: Annotated[int, typer.Option("--keep", min=1, help="How many of the newest to keep.")],
    storage: StorageUrl = None,
    output: Output = Format.TABLE,
) -> None:
    """Delete a job's older checkpoints and the remains of saves that never finished."""
    from jobs.train.state.checkpoints import prune, steps
    from jobs.train.state.storage import FileStorage

    place = _open(job, storage)
    deleted = prune(place, job, keep)
    if isinstance(place, FileStorage):  # elsewhere an interrupted upload leaves nothing that could be seen
        place.delete_unfinished(job, older_than_s=_SURELY_ABANDONED_S, now_s=time.time())
    kept = steps(place, job)
    payload = {"job": job, "storage": place.url, "deleted": deleted, "kept": kept}
    emit("CheckpointGc", payload, output, table=f"deleted {_listed(deleted)}; kept {_listed(kept)}")


def _open(job: str, url: str | None) -> Storage:
    from jobs.train.state.open_storage import open_storage

    home = home_dir() / "checkpoints" / require_name(job, "job")
    return open_storage(url or home.as_uri())


def _some(found: list[int], job: str, storage: Storage) -> list[int]:
    if not found:
        raise UserError(
            f"job {job} has no checkpoints",
            code=ExitCode.UNKNOWN,
            where=storage.url,
            next_step="Name the job's checkpoint.storage with --storage",
        )
    return found


def _described(manifest: Manifest) -> dict[str, Any]:
    return {
        "step": manifest.step,
        "attempt": manifest.attempt,
        "world_size": manifest.world_size,
        "zero_stage": manifest.zero_stage,
        "precision": manifest.precision,
        "num_bytes": manifest.nbytes,
        "num_parameters": manifest.num_parameters,
        "dataset_hash": manifest.dataset_hash,
        "task": manifest.task.get("task", ""),
        "problem": None,
    }


def _row(item: dict[str, Any]) -> list[object]:
    if item["problem"]:
        return [item["step"], None, None, None, None, None, item["problem"]]
    size = f"{item['num_bytes'] / 2**20:,.1f} MiB"
    columns = ("step", "world_size", "zero_stage", "precision")
    return [*(item[name] for name in columns), size, f"{item['num_parameters']:,}", None]


def _listed(steps: list[int]) -> str:
    return f"step {', '.join(map(str, steps))}" if steps else "nothing"
