"""Secrets are files of whoever runs the server, which only their owner may read; everything else knows their names."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from orchestrator.spec.job_parts import secret_variable

SECRETS_FOLDER = "secrets"
"""Within a home: TENANT/NAME for a tenant's jobs, NAME for the Cluster's own."""
_MOST_BYTES = 64 * 2**10


class SecretError(Exception):
    """A secret that cannot be used; the text says why, and never what it holds."""


def read_secret_file(folder: Path, name: str, *, most_bytes: int = _MOST_BYTES) -> bytes:
    """What is in a secret's file below `folder`, without white space around it.

    Raises: SecretError for a file that is not there, is read by others, or is empty or too long.
    """
    path = folder / name
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
                raise SecretError(f"secret {name!r} must be a plain file that only its owner may read (chmod 600)")
            text = file.read(most_bytes + 1).strip()
    except OSError as error:
        raise SecretError(f"secret {name!r} cannot be read: {error.strerror}") from None
    if not 1 <= len(text) <= most_bytes:
        raise SecretError(f"secret {name!r} must be 1 to {most_bytes} bytes long")
    return text


def variables_of(folder: Path, tenant: str, names: Iterable[str]) -> dict[str, str]:
    """What workers find in their environment: `s3-key` as S3_KEY. Raises: SecretError."""
    found = {}
    for name in names:
        content = read_secret_file(folder, f"{tenant}/{name}")
        try:
            text = content.decode()
        except UnicodeDecodeError:
            raise SecretError(f"secret {name!r} must be UTF-8 text") from None
        if "\0" in text:
            raise SecretError(f"secret {name!r} must be text without null bytes")
        found[secret_variable(name)] = text
    return found
