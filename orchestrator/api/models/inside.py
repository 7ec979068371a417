"""Looking into a running job: stacks of its ranks, and commands beside its workers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from orchestrator.api.models.base import Model


class StacksBody(Model):
    """`rank` None: of all ranks."""

    rank: int | None = Field(default=None, ge=0, le=1_000_000)


class Stacks(Model):
    """Where ranks stand, as text, and the file in the run's folder that it was kept in; `silent` nodes said nothing."""

    job: str
    text: str
    path: str | None
    silent: list[str]


class TerminalSize(Model):
    """In characters."""

    rows: int = Field(ge=1, le=10_000)
    columns: int = Field(ge=1, le=10_000)


class Terminal(TerminalSize):
    """A terminal that a command sits at; `term` is what programs find in TERM."""

    term: str = Field(default="xterm", pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")


class ExecBody(Model):
    """A command and where it runs: beside that rank, the first rank of a node, else rank 0. How long it may be, the
    limit of a body says. `terminal`: it sits at one, and all it says comes as stdout."""

    command: list[Annotated[str, Field(pattern=r"^[^\x00]*$")]] = Field(min_length=1)
    rank: int | None = Field(default=None, ge=0, le=1_000_000)
    node: str | None = Field(default=None, pattern=r"^[0-9a-zA-Z._-]{1,64}$")
    terminal: Terminal | None = None


class Exec(Model):
    """A command that runs in a job; `output` is where it is watched, within half a minute. `terminal`: whether it sits
    at one; a job that an earlier version has started offers none."""

    id: str
    job: str
    rank: int
    node: str
    terminal: bool
    output: str


class ExecInput(Model):
    """Input of a command, base64; `end`: nothing follows; `size`: its terminal has another one."""

    data: str = Field(default="", pattern=r"^[A-Za-z0-9+/]*={0,2}$")
    end: bool = False
    size: TerminalSize | None = None


class Code(Model):
    """A folder of code that is here."""

    id: str


class Done(Model):
    """It was done."""

    done: bool = True
