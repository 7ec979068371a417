"""`/v1/files` in OpenAI's shapes: upload, list, look up, read, delete."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from serving.batch.records import CheckedInput, FileKind, FileRecord, Purpose
from serving.batch.upload import CheckedUpload, UploadLimits, check_upload, is_storable
from serving.http.batch_rows import BatchRows
from serving.http.callers import Asking
from serving.http.documents import CONTENT, DELETED, ERRORS, FILE, FILES, UPLOAD
from serving.http.errors import ApiError
from serving.http.idempotency import Key
from serving.http.service import Batches

Id = Annotated[str, Path(max_length=256)]
After = Annotated[str | None, Query(max_length=256)]
_FIELDS = ("file", "purpose")
_MAX_FIELD_BYTES = 1024
_MAX_NAME = 512
_KINDS = {
    None: list(FileKind),
    Purpose.BATCH: [FileKind.INPUT],
    Purpose.BATCH_OUTPUT: [FileKind.OUTPUT, FileKind.ERRORS],
}


def make_file_router(batches: Batches, rows: BatchRows) -> APIRouter:
    """Routes on one store; blocking calls run beside the event loop."""
    router = APIRouter(prefix="/v1/files", responses=ERRORS)
    files, rules = batches.store.files, batches.rules
    limits = UploadLimits(max_lines=rules.max_rows, max_line_bytes=rules.max_line_bytes)

    @router.post("", responses=FILE, openapi_extra=UPLOAD)
    async def upload(request: Request, caller: Asking, key: Key = None) -> dict[str, Any]:
        async with _form_of(request) as form:
            file = _checked_fields(form)
            record = await run_in_threadpool(store, caller.tenant, file.filename or "upload.jsonl", file.file, key)
        return _document(record)

    def store(tenant: str, filename: str, content: BinaryIO, key: str | None) -> FileRecord:
        checked = check_upload(content, rows.check, limits)
        if checked.problems:
            raise _bad_lines(checked)
        content.seek(0)
        digest = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
        good = CheckedInput(
            lines=checked.lines, num_bytes=checked.num_bytes, fingerprint=digest, idempotency_key=key
        )  # fmt: skip
        return files.create(tenant, filename, content, good)

    @router.get("", responses=FILES)
    def list_files(
        caller: Asking,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
        after: After = None,
        order: Literal["asc", "desc"] = "desc",
        purpose: Purpose | None = None,
    ) -> dict[str, Any]:
        found, more = files.page(
            caller.tenant, limit=limit, after=after, kinds=_KINDS[purpose], newest_first=order == "desc"
        )
        return page([_document(file) for file in found], more)

    @router.get("/{file_id}", responses=FILE)
    def get_file(file_id: Id, caller: Asking) -> dict[str, Any]:
        return _document(files.get(caller.tenant, file_id))

    @router.get("/{file_id}/content", responses=CONTENT, response_class=StreamingResponse)
    def get_content(file_id: Id, caller: Asking) -> StreamingResponse:
        return StreamingResponse(
            files.content(files.get(caller.tenant, file_id)), media_type="application/octet-stream"
        )

    @router.delete("/{file_id}", responses=DELETED)
    def delete_file(file_id: Id, caller: Asking) -> dict[str, Any]:
        files.delete(caller.tenant, file_id)
        return {"id": file_id, "object": "file", "deleted": True}

    return router


def page(items: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    """OpenAI's list document."""
    ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {"first_id": None, "last_id": None}
    return {"object": "list", "data": items, "has_more": more, **ends}


@contextlib.asynccontextmanager
async def _form_of(request: Request) -> AsyncIterator[FormData]:
    """The multipart form of a request, its temporary files closed at the end. Raises: ApiError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError(400, "the body must be multipart/form-data with 'file' and 'purpose'", code="invalid_form")
    try:
        form = await request.form(max_files=1, max_fields=4, max_part_size=_MAX_FIELD_BYTES)
    except (MultiPartException, ValueError, LookupError, HTTPException) as error:
        why = error.detail if isinstance(error, HTTPException) else error
        raise ApiError(400, f"the form cannot be read: {why}", code="invalid_form") from None
    try:
        yield form
    finally:
        await form.close()


def _checked_fields(form: FormData) -> UploadFile:
    """Raises: ApiError that names the field."""
    for name, _ in form.multi_items():
        if name not in _FIELDS:
            raise ApiError(
                400,
                f"{name!r} is not a field of an upload; 'file' and 'purpose' are",
                code="invalid_value",
                param=name if name.isidentifier() else None,
            )
    if form.get("purpose") != Purpose.BATCH:
        raise ApiError(400, "purpose: must be 'batch'", code="invalid_value", param="purpose")
    file = form.get("file")
    if not isinstance(file, UploadFile) or len(form.multi_items()) > len(_FIELDS):
        raise ApiError(400, "file: there must be one file", code="invalid_value", param="file")
    if file.filename and (len(file.filename) > _MAX_NAME or not is_storable(file.filename)):
        raise ApiError(400, f"file: its name must be at most {_MAX_NAME} characters of text", code="invalid_value",
                       param="file")  # fmt: skip
    return file


def _bad_lines(checked: CheckedUpload) -> ApiError:
    first = checked.problems[0]
    rest = f"; {checked.num_bad} lines are wrong" if checked.num_bad > 1 else ""
    told = [
        {"line": each.line, "code": each.code, "message": each.message, "param": each.param}
        for each in checked.problems
    ]
    them = "them ('lines' lists the first of them)" if checked.num_bad > 1 else "it"
    message = f"file: line {first.line}: {first.message}{rest}; nothing was stored. Mend {them} and send the file again"
    return ApiError(400, message, code=first.code, param=first.param or "file", more={"lines": told})


def _document(file: FileRecord) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.num_bytes,
        "created_at": int(file.created_s),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }
