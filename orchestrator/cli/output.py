"""One way to print a result: a table for people, versioned JSON or YAML for programs, always on stdout."""

from __future__ import annotations

import enum
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import typer
import yaml
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_ENDLESS = 100_000
_SHORT = 24


class Format(enum.StrEnum):
    """What `-o` accepts."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[Format, typer.Option("-o", "--output", help="table, json or yaml.")]


def emit(kind: str, payload: Mapping[str, Any], output: Format, *, table: RenderableType) -> None:
    """Print `payload` as `{apiVersion, kind, ...}` or, for people, `table`."""
    # What a job's own `kind` says stands in its document; here it says what is printed.
    document = _in_json({"apiVersion": "tideline/v1", **payload, "kind": kind})
    match output:
        case Format.JSON:
            sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")
        case Format.YAML:
            sys.stdout.write(yaml.safe_dump(json.loads(json.dumps(document, default=str)), sort_keys=False))
        case Format.TABLE:
            sys.stdout.write(_rendered(table))


def _in_json(value: Any) -> Any:
    """JSON has no word for what is no number: a loss that is none is nothing, and programs can read the rest."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {key: _in_json(one) for key, one in value.items()}
        case list() | tuple():
            return [_in_json(one) for one in value]
        case _:
            return value


def _rendered(table: RenderableType) -> str:
    """What a person sees. Text is never markup: a description may hold brackets. Pipes get whole lines, and no trailing
    blanks; where a terminal is too narrow for the words of a table, it breaks the lines itself."""
    console = Console(markup=False, highlight=False)
    least = Measurement.get(console, console.options.update(max_width=_ENDLESS), table).minimum
    console.width = max(console.width, least) if console.is_terminal else _ENDLESS
    console.soft_wrap = not console.is_terminal
    with console.capture() as said:
        console.print(table)
    if console.is_terminal:
        return said.get()
    return "".join(f"{line.rstrip()}\n" for line in said.get().splitlines())


def make_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> Table:
    """A plain table that fits the terminal; columns named in `right` are right-aligned. What is short stays whole."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    for at, name in enumerate(columns):
        widest = max((cell_len(row[at]) for row in cells), default=0)
        whole = max(widest, cell_len(name)) if widest <= _SHORT else None
        justify: Literal["left", "right"] = "right" if name in right else "left"
        table.add_column(name, justify=justify, overflow="fold", min_width=whole)
    for row in cells:
        table.add_row(*map(Text, row))
    return table
