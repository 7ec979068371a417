"""Problem documents back to errors with the exit code that the same condition has in process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.spec.errors import ExitCode, UserError


class ServerProblemError(UserError):
    """What the server answered instead. `status`, `code` and `document` as they came."""

    def __init__(
        self, problem: str, *, code: ExitCode, where: str, next_step: str, status: int, document: Mapping[str, Any]
    ) -> None:
        super().__init__(problem, code=code, where=where, next_step=next_step)
        self.status = status
        self.document = dict(document)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.status, self.document))

    def __str__(self) -> str:
        found = self.document.get("problems") or []
        if len(found) < 2:
            return super().__str__()
        return "\n".join(
            f"{one['where']}: {one['code']} {one['path']}: {one['what']}; {one['want']}. {one['next_step']}."
            for one in found
        )


def of_document(status: int, document: object) -> ServerProblemError:
    """The error that an answer is; an answer that is no problem document is told by its status."""
    data = document if isinstance(document, dict) else {}
    try:
        code = ExitCode(int(data["exit_code"]))
    except (KeyError, ValueError, TypeError):
        code = ExitCode.UNREACHABLE if status in (502, 503, 504) else ExitCode.BUG
    detail = str(data.get("detail") or f"the server answered {status}")
    return ServerProblemError(
        detail,
        code=code,
        where=str(data.get("where") or ""),
        next_step=str(data.get("next_step") or ""),
        status=status,
        document=data,
    )


def _rebuild(status: int, document: dict[str, Any]) -> ServerProblemError:
    return of_document(status, document)
