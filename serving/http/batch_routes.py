"""`/v1/batches` in OpenAI's shapes: create, look up, list, cancel."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from orchestrator.spec.problems import BadValueError
from orchestrator.spec.quantities import parse_duration, render_duration
from serving.batch.records import BatchRecord, BatchStatus, NewBatch
from serving.batch.upload import is_storable
from serving.http.callers import Asking
from serving.http.documents import BATCH, BATCHES, ERRORS
from serving.http.errors import ApiError
from serving.http.file_routes import After, Id, page
from serving.http.idempotency import Key
from serving.http.service import Batches
from serving.policy import Tier

_Short = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class BatchBody(BaseModel):
    """POST /v1/batches. `completion_window` is a duration such as 15m or 24h."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    endpoint: Literal["/v1/completions", "/v1/chat/completions", "/v1/embeddings"]
    completion_window: Annotated[str, StringConstraints(min_length=2, max_length=32)]
    metadata: Annotated[
        dict[_Short, Annotated[str, StringConstraints(max_length=512)]] | None, Field(max_length=16)
    ] = None  # fmt: skip

    @field_validator("metadata")
    @classmethod
    def _storable(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        if not all(is_storable(text) for item in (value or {}).items() for text in item):
            raise ValueError("must be text without NUL characters and lone surrogates")
        return value


def make_batch_router(batches: Batches) -> APIRouter:
    """Routes on one store; they block, so FastAPI runs them beside the event loop."""
    router = APIRouter(prefix="/v1/batches", responses=ERRORS)
    book = batches.store.batches

    @router.post("", responses=BATCH)
    def create_batch(body: BatchBody, caller: Asking, key: Key = None) -> dict[str, Any]:
        caller.check_tier(Tier.BATCH)
        new = NewBatch(
            tenant=caller.tenant, endpoint=body.endpoint, input_file_id=body.input_file_id,
            window=body.completion_window, window_s=_window_s(body.completion_window, batches),
            metadata=body.metadata or {}, idempotency_key=key,
        )  # fmt: skip
        return _document(book.create(new, max_rows=batches.rules.max_rows))

    @router.get("", responses=BATCHES)
    def list_batches(
        caller: Asking, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: After = None
    ) -> dict[str, Any]:
        found, more = book.page(caller.tenant, limit=limit, after=after)
        return page([_document(batch) for batch in found], more)

    @router.get("/{batch_id}", responses=BATCH)
    def get_batch(batch_id: Id, caller: Asking) -> dict[str, Any]:
        return _document(book.get(caller.tenant, batch_id))

    @router.post("/{batch_id}/cancel", responses=BATCH)
    def cancel_batch(batch_id: Id, caller: Asking) -> dict[str, Any]:
        return _document(book.cancel(caller.tenant, batch_id))

    return router


def _window_s(text: str, batches: Batches) -> float:
    """Raises: ApiError that names the window."""
    low, high = batches.rules.min_window_s, batches.rules.max_window_s
    try:
        window_s = parse_duration(text)
    except BadValueError:
        window_s = -1.0
    if not low <= window_s <= high:
        message = f"completion_window: {text!r} is wrong; {render_duration(low)} to {render_duration(high)} is right"
        raise ApiError(400, message, code="invalid_value", param="completion_window")
    return window_s


def _document(batch: BatchRecord) -> dict[str, Any]:
    ended = {
        BatchStatus.COMPLETED: "completed_at",
        BatchStatus.EXPIRED: "expired_at",
        BatchStatus.CANCELLED: "cancelled_at",
    }
    times: dict[str, int | None] = dict.fromkeys(["failed_at", "finalizing_at", "cancelling_at", *ended.values()])
    if batch.ended_s is not None:
        times[ended[batch.status]] = int(batch.ended_s)
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": int(batch.created_s),
        "in_progress_at": int(batch.created_s),
        "expires_at": int(batch.expires_s),
        **times,
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": dict(batch.metadata),
    }
