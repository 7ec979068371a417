"""Signatures of messages, by the open Standard Webhooks scheme: receivers check them with that scheme's libraries.

`webhook-id` names a message (the same at every try), `webhook-timestamp` says when this try was made, and
`webhook-signature` is `v1,` and the base64 of the HMAC-SHA256 of `ID.TIMESTAMP.BODY`. Who refuses old timestamps and
ids that he knows is safe from replays.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from pathlib import Path

from orchestrator.adapters.secret_files import SecretError, read_secret_file

_PREFIX = "whsec_"
_LEAST_BYTES, _MOST_BYTES = 16, 4096


def headers_of(message_id: str, body: bytes, *, now_s: float, secret: bytes | None) -> dict[str, str]:
    """What goes with a message."""
    sent_s = str(int(now_s))
    found = {"webhook-id": message_id, "webhook-timestamp": sent_s, "content-type": "application/json"}
    if secret is not None:
        signed = b".".join((message_id.encode(), sent_s.encode(), body))
        digest = hmac.new(secret, signed, hashlib.sha256).digest()
        found["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return found


def read_secret(folder: Path, name: str) -> bytes:
    """The secret in a file below `folder`: its text, or what `whsec_` and base64 stand for.

    Raises: SecretError for a file that is not there, is read by others, or is no secret.
    """
    text = read_secret_file(folder, name, most_bytes=_MOST_BYTES)
    if len(text) < _LEAST_BYTES:
        raise SecretError(f"secret {name!r} must be {_LEAST_BYTES} to {_MOST_BYTES} bytes long")
    if not text.startswith(_PREFIX.encode()):
        return text
    try:
        return base64.b64decode(text.removeprefix(_PREFIX.encode()), validate=True)
    except binascii.Error:
        raise SecretError(f"secret {name!r} begins with {_PREFIX} and is no base64") from None
