"""API keys: a file of salted hashes, and how a presented key is checked against it.

A key is `tide_<id>_<secret>`; the id is public and finds the hash, the secret is shown once and stored nowhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.registry.durable import flush_folder, write_file
from orchestrator.spec.errors import ExitCode, UserError

_SHAPE = re.compile(r"tide_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
# About 30 ms and 16 MiB: enough to make a stolen file useless, since secrets have 256 bits anyway.
_SCRYPT = {"n": 2**14, "r": 8, "p": 1, "dklen": 32}
TierName = Literal["keystroke", "interactive", "batch"]


class KeyRecord(BaseModel):
    """One key as it is stored. `tiers` None = all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    tenant: str = Field(min_length=1, max_length=256)
    salt: str
    hash: str
    created_at: str
    note: str = ""
    tiers: tuple[TierName, ...] | None = None
    revoked_at: str | None = None


class KeyFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    apiVersion: Literal["tideline/v1"] = "tideline/v1"  # noqa: N815 - the key is Kubernetes' own
    kind: Literal["KeyFile"] = "KeyFile"
    keys: tuple[KeyRecord, ...] = ()


def read_keys(path: Path) -> KeyFile:
    """Raises: UserError for a file that is missing or is no keys file."""
    try:
        return KeyFile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError("there is no such keys file", where=str(path), code=ExitCode.UNKNOWN,
                        next_step=f"'tide keys create {path} --tenant NAME' makes one.") from None  # fmt: skip
    except OSError as error:
        raise UserError(f"the keys file cannot be read: {error.strerror}", where=str(path)) from None
    except ValidationError:  # its text would quote the file
        raise UserError("this is no keys file", where=str(path),
                        next_step="'tide keys create' writes one; name another path.") from None  # fmt: skip


def create_key(
    path: Path, *, tenant: str, tiers: Sequence[TierName] | None = None, note: str = ""
) -> tuple[str, KeyRecord]:
    """Add a key to the file, made if it is not there; returns the key itself, which is stored nowhere."""
    secret, salt = secrets.token_urlsafe(32), secrets.token_bytes(16)
    record = KeyRecord(
        id=secrets.token_hex(6), tenant=tenant, salt=salt.hex(), hash=_hash(secret, salt).hex(), created_at=_now(),
        note=note, tiers=tuple(tiers) if tiers else None,
    )  # fmt: skip
    with _locked(path):
        keys = read_keys(path).keys if path.exists() else ()
        _write(path, KeyFile(keys=(*keys, record)))
    return f"tide_{record.id}_{secret}", record


def revoke_key(path: Path, key_id: str) -> KeyRecord:
    """Make a key useless; running endpoints notice at their next request. Raises: UserError for an unknown id."""
    with _locked(path):
        keys = {record.id: record for record in read_keys(path).keys}
        if key_id not in keys:
            raise UserError(f"there is no key {key_id!r}", where=str(path), code=ExitCode.UNKNOWN,
                            next_step=f"'tide keys ls {path}' lists them.")  # fmt: skip
        if keys[key_id].revoked_at is None:
            keys[key_id] = keys[key_id].model_copy(update={"revoked_at": _now()})
            _write(path, KeyFile(keys=tuple(keys.values())))
        return keys[key_id]


class BadKeyError(Exception):
    """A key that opens nothing; `code` says why, the message never quotes the key."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class KeyRing:
    """Checks presented keys against the file as it is now: a change of the file is noticed at the next request.

    A key that was right once is remembered by a keyed digest, so that scrypt's time is paid once a key, and a wrong one
    so that it is not paid for every repetition.
    """

    _MAX_REMEMBERED = 4096

    def __init__(self, path: Path) -> None:
        self._path = path
        self._secret = secrets.token_bytes(32)
        self._stamp: tuple[int, int, int] | None = None
        self._records: dict[str, KeyRecord] = {}
        self._remembered: dict[bytes, bool] = {}
        self._reload()

    def known(self, key: str) -> KeyRecord | None:
        """The record of a key that has been checked before; None when `check` must look. Raises: BadKeyError."""
        record, _ = self._find(key)
        verdict = self._remembered.get(self._digest(key, record))
        if verdict is None:
            return None
        return self._judge(record, verdict)

    def check(self, key: str) -> KeyRecord:
        """The record of a key; takes tens of milliseconds, and waits for nothing. Raises: BadKeyError."""
        record, secret = self._find(key)
        verdict = hmac.compare_digest(_hash(secret, bytes.fromhex(record.salt)), bytes.fromhex(record.hash))
        if len(self._remembered) >= self._MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[self._digest(key, record)] = verdict
        return self._judge(record, verdict)

    def _find(self, key: str) -> tuple[KeyRecord, str]:
        self._reload()
        shape = _SHAPE.fullmatch(key)
        record = self._records.get(shape.group(1)) if shape else None
        if shape is None or record is None:
            raise _unknown()
        return record, shape.group(2)

    def _judge(self, record: KeyRecord, verdict: bool) -> KeyRecord:
        if not verdict:
            raise _unknown()
        if record.revoked_at is not None:
            raise BadKeyError("key_revoked", "this API key has been revoked; ask whoever runs the endpoint for another")
        return record

    def _digest(self, key: str, record: KeyRecord) -> bytes:
        """Bound to the stored hash: a key that is made anew under an old id is checked anew."""
        return hmac.digest(self._secret, f"{record.hash}:{key}".encode(), "sha256")

    def _reload(self) -> None:
        """Raises: UserError; a keys file that vanished opens nothing."""
        try:
            status = self._path.stat()
        except OSError:
            status = None
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size) if status else None
        if stamp is None or stamp != self._stamp:
            self._records = {record.id: record for record in read_keys(self._path).keys}
            self._stamp = stamp


def _unknown() -> BadKeyError:
    return BadKeyError("invalid_api_key", "this API key is not known here; ask whoever runs the endpoint for one")


def _hash(secret: str, salt: bytes) -> bytes:
    return hashlib.scrypt(secret.encode(), salt=salt, maxmem=2**26, **_SCRYPT)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time; a lock beside the file, because the file itself is replaced."""
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {str(path.parent)!r}", where=str(path), next_step="Make it first.")
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        os.fchmod(lock.fileno(), 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, content: KeyFile) -> None:
    """Replace the file in one step, readable by its owner alone."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    write_file(beside, json.dumps(content.model_dump(), indent=2).encode() + b"\n", mode=0o600)
    os.replace(beside, path)
    flush_folder(path.parent)
