"""A batch store with a clock that tests move, and small batches to put into it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.batch.database import sqlite_url
from serving.batch.leases import LeaseRules
from serving.batch.records import BatchRecord, CheckedInput, FileRecord, LeasedRow, NewBatch, RowResult
from serving.batch.store import BatchStore
from serving.batch.upload import UploadLimits, check_upload

URL = "/v1/completions"
LIMITS = UploadLimits(max_lines=1000, max_line_bytes=4096)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


class World:
    """The store, its clock, and shorthands; `tokens` of every line are 10."""

    def __init__(self, url: str, *, lease_s: float = 30.0, retries: int = 3) -> None:
        self.url = url
        self.clock = Clock()
        self.rules = LeaseRules(lease_s=lease_s, retries=retries)
        self.store = self.open()

    def open(self) -> BatchStore:
        return BatchStore(self.url, rules=self.rules, clock=self.clock)

    def upload(self, num_rows: int = 3, *, tenant: str = "t", content: bytes | None = None, **key: Any) -> FileRecord:
        data = lines(num_rows) if content is None else content
        checked = check_upload(io.BytesIO(data), lambda url, body: 10, LIMITS)
        assert not checked.problems
        given = CheckedInput(lines=checked.lines, num_bytes=checked.num_bytes, fingerprint=str(hash(data)), **key)
        return self.store.files.create(tenant, "in.jsonl", io.BytesIO(data), given)

    def batch(
        self, num_rows: int = 3, *, tenant: str = "t", window_s: float = 3600.0, file: FileRecord | None = None,
        **kw: Any,
    ) -> BatchRecord:  # fmt: skip
        file = file or self.upload(num_rows, tenant=tenant)
        new = NewBatch(
            tenant=tenant, endpoint=URL, input_file_id=file.id, window=f"{window_s:g}s", window_s=window_s, **kw
        )
        return self.store.batches.create(new, max_rows=1000)

    def get(self, batch: BatchRecord) -> BatchRecord:
        return self.store.batches.get(batch.tenant, batch.id)

    def commit(self, *leased: LeasedRow, status: int = 200) -> int:
        return len(self.store.leases.commit([(row, answer(row, status)) for row in leased]))

    def content(self, file_id: str | None, tenant: str = "t") -> list[dict[str, Any]]:
        assert file_id is not None
        file = self.store.files.get(tenant, file_id)
        data = b"".join(self.store.files.content(file))
        assert len(data) == file.num_bytes
        return [json.loads(line) for line in data.splitlines()]


def answer(row: LeasedRow, status: int = 200) -> RowResult:
    return RowResult(status_code=status, body={"text": row.custom_id}, prompt_tokens=3, completion_tokens=2)


def lines(num_rows: int, url: str = URL) -> bytes:
    return b"".join(line(f"row-{index}", url=url) for index in range(num_rows))


def line(custom_id: str, *, url: str = URL, body: Mapping[str, Any] | None = None, **change: Any) -> bytes:
    document = {"custom_id": custom_id, "method": "POST", "url": url, "body": body or {"model": "m", "prompt": "x"}}
    return json.dumps({**document, **change}).encode() + b"\n"


def indexes(leased: Sequence[LeasedRow]) -> list[int]:
    return [row.index for row in leased]


def sqlite_world(folder: Path, **rules: Any) -> World:
    return World(sqlite_url(folder / "batches.sqlite3"), **rules)
