"""What the store takes and gives: files, batches, leased rows and their results, as plain values."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class Purpose(enum.StrEnum):
    """What a file is for; OpenAI's words."""

    BATCH = "batch"
    BATCH_OUTPUT = "batch_output"


class FileKind(enum.StrEnum):
    """Where a file's bytes are: uploaded lines, or the rows of a batch that ended."""

    INPUT = "input"
    OUTPUT = "output"
    ERRORS = "errors"


class BatchStatus(enum.StrEnum):
    """OpenAI's words. Files are checked on upload and batches end in one transaction, so its others never show."""

    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class RowState(enum.StrEnum):
    """`succeeded` and `failed` are final."""

    PENDING = "pending"
    LEASED = "leased"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class RowError(enum.StrEnum):
    """Why a row has no response; `code` in the error file."""

    EXPIRED = "batch_expired"
    CANCELLED = "batch_cancelled"
    RETRIES_EXHAUSTED = "retries_exhausted"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A stored file. `batch_id` is set for output and error files."""

    id: str
    tenant: str
    kind: FileKind
    filename: str
    num_bytes: int
    created_s: float
    batch_id: str | None = None

    @property
    def purpose(self) -> Purpose:
        """What clients see."""
        return Purpose.BATCH if self.kind is FileKind.INPUT else Purpose.BATCH_OUTPUT


@dataclass(frozen=True, slots=True, kw_only=True)
class InputLine:
    """One good line of an upload: where its bytes are, and what the queue must know. `tokens` = prompt + answer."""

    start: int
    stop: int
    custom_id: str
    url: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedInput:
    """An upload without a bad line. `fingerprint` tells two uploads with one idempotency key apart."""

    lines: Sequence[InputLine]
    num_bytes: int
    fingerprint: str
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LineProblem:
    """What is wrong with line `line` (from 1) of an upload; `param` is the field."""

    line: int
    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """A batch that somebody asks for."""

    tenant: str
    endpoint: str
    input_file_id: str
    window: str
    window_s: float
    metadata: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """A batch as it stands. `ended_s` and the two file ids are set when it has ended.

    `tokens_left` bounds what its open rows can still cost.
    """

    id: str
    tenant: str
    endpoint: str
    input_file_id: str
    window: str
    status: BatchStatus
    created_s: float
    expires_s: float
    ended_s: float | None
    total: int
    completed: int
    failed: int
    tokens_left: int
    prompt_tokens: int
    completion_tokens: int
    output_file_id: str | None
    error_file_id: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedRow:
    """A row that the holder of `token` may compute and commit until the lease ends."""

    batch_id: str
    index: int
    token: str
    custom_id: str
    tenant: str
    url: str
    line: bytes
    tokens: int
    expires_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """What came of a row: an HTTP answer, good or bad."""

    status_code: int
    body: Mapping[str, Any]
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def succeeded(self) -> bool:
        """Goes to the output file; anything else to the error file."""
        return 200 <= self.status_code < 300


class BatchError(Exception):
    """A request that the store cannot carry out; `code` is for programs."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class UnknownError(BatchError):
    """There is no such file or batch, or it is another tenant's."""


class ConflictError(BatchError):
    """What is asked contradicts what is there."""


class WindowError(BatchError):
    """The window cannot be kept; `eta_s` is when the batch would be done, from now."""

    def __init__(self, message: str, *, eta_s: float, retry_after_s: float | None) -> None:
        super().__init__("window_cannot_be_kept", message, param="completion_window")
        self.eta_s = eta_s
        self.retry_after_s = retry_after_s
