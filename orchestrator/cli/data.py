"""`tide data`: pack folders of text into data sets, list them, and check that they are whole."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.data.files import FileRules
from jobs.data.manifest import Manifest
from jobs.data.pack import Packed, PackRules, pack
from jobs.data.pack import Progress as OnProgress
from jobs.data.stdlib import NAME as RESERVED_NAME
from jobs.data.store import Stored, datasets, resolve
from jobs.data.verify import verify
from orchestrator.cli.home import home_dir
from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.spec.errors import ExitCode, UserError

app = typer.Typer(no_args_is_help=True)


@app.command("pack")
def pack_folder(
    path: Annotated[Path, typer.Argument(help="Folder of text or code.")],
    name: Annotated[str, typer.Option("--name", help="What to call the data set.")],
    include: Annotated[list[str] | None, typer.Option("--include", help="Only files like this, '*.py' say.")] = None,
    exclude: Annotated[list[str] | None, typer.Option("--exclude", help="No files or folders like this.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Pack the text files of a folder as a data set's newest version."""
    if name == RESERVED_NAME:
        problem = f"{name} is built from the standard library of this Python whenever it is asked for"
        raise UserError(problem, code=ExitCode.CONFLICT, next_step="Choose another --name.")
    rules = PackRules(files=FileRules(include=tuple(include or ("*",)), exclude=tuple(exclude or ())))
    with _progress_bar("packing") as on_progress:
        packed = pack(path, name=name, home=home_dir(), rules=rules, progress=on_progress)
    emit("Dataset", {**_described(packed.manifest), **_outcome(packed)}, output, table=_summary(packed))


@app.command("ls")
def list_datasets(output: Output = Format.TABLE) -> None:
    """List the data sets on this machine."""
    stored = datasets(home_dir())
    items = [_item(entry) for entry in stored]
    columns = ("NAME", "VERSION", "TRAIN", "VALIDATION", "DOCUMENTS", "SHARDS", "ORIGIN")
    table = make_table(columns, [_row(entry) for entry in stored], right=columns[2:6])
    emit("DatasetList", {"items": items}, output, table=table if stored else "no data sets; 'tide data pack' makes one")


@app.command("verify")
def verify_dataset(
    ref: Annotated[str, typer.Argument(help="name@latest, or name@ and the first digits of a version.")],
    output: Output = Format.TABLE,
) -> None:
    """Read a data set in full and name every damaged shard; exits 3 when there is one."""
    folder = resolve(ref, home_dir())
    with _progress_bar("verifying") as on_progress:
        damaged = verify(folder, progress=on_progress)
    found = [{"shard": damage.shard, "file": str(damage.path), "problem": damage.problem} for damage in damaged]
    state = "damaged" if damaged else "ok"
    rows = [(damage.shard, damage.problem, damage.path) for damage in damaged]
    table = make_table(("SHARD", "PROBLEM", "FILE"), rows) if damaged else f"{ref}: every shard is what it was"
    emit(
        "DatasetVerification",
        {"ref": ref, "version": folder.name, "state": state, "damaged": found},
        output,
        table=table,
    )
    if damaged:
        next_step = "Pack or fetch it again; nothing reads a damaged shard silently."
        raise UserError(f"{len(damaged)} damaged shards in {ref}", where=str(folder), next_step=next_step)


@contextlib.contextmanager
def _progress_bar(verb: str) -> Iterator[OnProgress | None]:
    """A progress bar on stderr while a person watches; nothing otherwise."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task(verb, total=None)
        yield lambda done, total: bar.update(line, completed=done, total=total)


def _described(manifest: Manifest) -> dict[str, Any]:
    splits = {
        name: {"num_bytes": split.num_bytes, "documents": split.documents, "shards": len(split.shards)}
        for name, split in manifest.splits.items()
    }
    labels = {"name": manifest.name, "version": manifest.hash, "ref": f"{manifest.name}@{manifest.hash[:12]}"}
    return {**labels, "splits": splits, "split_rule": manifest.split_rule, "origin": manifest.origin}


def _outcome(packed: Packed) -> dict[str, Any]:
    return {"folder": str(packed.folder), "passed_over": packed.passed_over}


def _summary(packed: Packed) -> str:
    manifest = packed.manifest
    split = " and ".join(f"{part.num_bytes:,} bytes {name}" for name, part in manifest.splits.items())
    left_out = f"; {packed.passed_over} empty or binary files passed over" if packed.passed_over else ""
    return f"{manifest.name}@{manifest.hash[:12]}: {split}{left_out}"


def _item(stored: Stored) -> dict[str, Any]:
    where = {"latest": stored.is_latest, "folder": str(stored.folder)}
    if stored.manifest is None:
        return {"name": stored.name, "version": stored.version, **where, "problem": stored.problem}
    return {**_described(stored.manifest), **where}


def _row(stored: Stored) -> tuple[object, ...]:
    version = stored.version[:12] + (" (latest)" if stored.is_latest else "")
    if stored.manifest is None:
        return (stored.name, version, "", "", "", "", f"DAMAGED: {stored.problem}")
    manifest = stored.manifest
    documents = manifest.train.documents + manifest.validation.documents
    sizes = (_megabytes(manifest.train.num_bytes), _megabytes(manifest.validation.num_bytes))
    return (stored.name, version, *sizes, documents, len(manifest.shards), manifest.origin)


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.2f} MB"
