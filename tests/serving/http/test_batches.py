"""Files and batches as the real `openai` client sees them, rows computed by the replica behind the same address."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from serving.batch.database import sqlite_url
from serving.batch.store import BatchStore
from serving.engine.echo import EchoEngine
from tests.serving.batch.worlds import line
from tests.serving.http.server import MAX_FILE_BYTES, openai_client, served
from tests.serving.http.test_lifecycle import Pace, metric

COMPLETION = {"model": "gpt-demo", "prompt": "abc", "max_tokens": 6}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(EchoEngine(max_context=64), folder=tmp_path_factory.mktemp("store")) as (url, _):
        yield url


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with openai_client(url) as client:
        yield client


def upload(client: OpenAI, *content: bytes, **options: Any):
    return client.files.create(file=("in.jsonl", b"".join(content)), purpose="batch", **options)


def submit(client: OpenAI, *content: bytes, endpoint: str = "/v1/completions", window: str = "1h", **options: Any):
    file = upload(client, *content)
    return client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window=window, **options  # type: ignore[arg-type]
    )  # fmt: skip


def finished(client: OpenAI, batch_id: str):
    while (batch := client.batches.retrieve(batch_id)).status == "in_progress":
        time.sleep(0.005)
    return batch


def test_a_batch_of_completions_comes_back_by_custom_id(client: OpenAI) -> None:
    rows = [line(f"r{index}", body={**COMPLETION, "prompt": f"{index};"}) for index in range(20)]
    batch = submit(client, *rows, metadata={"job": "nightly"})
    assert (batch.object, batch.status, batch.completion_window) == ("batch", "in_progress", "1h")
    assert batch.expires_at is not None
    assert batch.expires_at - batch.created_at == 3600
    done = finished(client, batch.id)
    assert (done.status, done.metadata, done.error_file_id) == ("completed", {"job": "nightly"}, None)
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 20, "completed": 20, "failed": 0}
    assert done.output_file_id is not None
    answers = [json.loads(each) for each in client.files.content(done.output_file_id).text.splitlines()]
    texts = {each["custom_id"]: each["response"]["body"]["choices"][0]["text"] for each in answers}
    assert texts == {f"r{index}": (f"{index};" * 6)[:6] for index in range(20)}
    assert {each["response"]["body"]["service_tier"] for each in answers} == {"flex"}


def test_chats_and_embeddings_run_in_batches_too(client: OpenAI) -> None:
    chat = {"model": "gpt-demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    first = submit(client, line("c", url="/v1/chat/completions", body=chat), endpoint="/v1/chat/completions")
    vector = {"model": "gpt-demo", "input": ["aab", "b"]}
    second = submit(client, line("e", url="/v1/embeddings", body=vector), endpoint="/v1/embeddings")
    bodies = []
    for batch in (first, second):
        output = finished(client, batch.id).output_file_id
        assert output is not None
        bodies.append(json.loads(client.files.content(output).text)["response"]["body"])
    assert bodies[0]["choices"][0]["message"]["content"] == "user"
    assert [each["embedding"][ord("b")] for each in bodies[1]["data"]] == [pytest.approx(1 / 3), 1.0]


def test_files_are_listed_read_and_deleted(client: OpenAI) -> None:
    content = line("a", body=COMPLETION)
    file = upload(client, content)
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(content), "in.jsonl", "batch")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == content
    assert file.id in [each.id for each in client.files.list(purpose="batch", limit=1)]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_batches_are_listed_newest_first(client: OpenAI) -> None:
    made = [submit(client, line("a", body=COMPLETION)).id for _ in range(3)]
    assert [each.id for each in client.batches.list(limit=2)][:3] == made[::-1]  # the client asks for every page
    for each in made:
        finished(client, each)


def test_bad_lines_are_told_with_their_numbers_and_nothing_is_stored(url: str, client: OpenAI) -> None:
    before = {each.id for each in client.files.list()}
    rows = [line("a", body=COMPLETION), b"{\n", line("b", body={**COMPLETION, "max_tokens": -1}),
            line("c", body={**COMPLETION, "model": "gpt-9"}), line("d", body={**COMPLETION, "prompt": "x" * 70}),
            line("e", body={**COMPLETION, "stream": True}), line("f", body={**COMPLETION, "service_tier": "priority"}),
            line("g", url="/v1/images", body={})]  # fmt: skip
    with pytest.raises(openai.BadRequestError) as refused:
        upload(client, *rows)
    error = refused.value.body
    assert isinstance(error, dict)
    assert error["message"].startswith("file: line 2: the line is not JSON: ")
    assert error["message"].endswith("; 7 lines are wrong; nothing was stored. Mend them ('lines' lists the "
                                     "first of them) and send the file again")  # fmt: skip
    assert [(each["line"], each["param"], each["code"]) for each in error["lines"]] == [
        (2, None, "invalid_json"), (3, "body.max_tokens", "invalid_value"), (4, "body.model", "model_not_found"),
        (5, "body.prompt", "context_length_exceeded"), (6, "body.stream", "invalid_value"),
        (7, "body.service_tier", "invalid_value"), (8, "url", "invalid_url"),
    ]  # fmt: skip
    assert {each.id for each in client.files.list()} == before


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"completion_window": "30s"}, 400, "completion_window"),
        ({"completion_window": "2d"}, 400, "completion_window"),
        ({"completion_window": "soon"}, 400, "completion_window"),
        ({"endpoint": "/v1/images"}, 400, "endpoint"),
        ({"endpoint": "/v1/embeddings"}, 400, "endpoint"),
        ({"input_file_id": "file-absent"}, 404, "input_file_id"),
        ({"input_file_id": "a\0b"}, 404, "input_file_id"),
        ({"input_file_id": 5}, 400, "input_file_id"),
        ({"metadata": {"a": 5}}, 400, "metadata.a"),
        ({"metadata": {"a": "\ud800"}}, 400, "metadata.a"),
        ({"metadata": {"a": "\0"}}, 400, "metadata"),
        ({"extra": 1}, 400, "extra"),
    ],
)
def test_a_wrong_batch_names_its_field(
    url: str, client: OpenAI, change: dict[str, Any], status: int, param: str
) -> None:
    good = {"input_file_id": upload(client, line("a", body=COMPLETION)).id, "endpoint": "/v1/completions",
            "completion_window": "24h"}  # fmt: skip
    content = json.dumps({**good, **change})
    response = httpx.post(f"{url}/v1/batches", content=content, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


@pytest.mark.parametrize(
    ("form", "status", "param"),
    [
        ({"files": {"file": b"x"}}, 400, "purpose"),
        ({"data": {"purpose": "batch"}, "files": {"other": b"x"}}, 400, "other"),
        ({"data": {"purpose": "fine-tune"}, "files": {"file": b"x"}}, 400, "purpose"),
        ({"data": {"purpose": "batch"}}, 400, None),
        ({"data": {"purpose": "batch", "file": "text"}, "files": {}}, 400, None),
        ({"json": {"purpose": "batch"}}, 400, None),
        ({"content": b"junk", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, None),
        ({"content": b"junk", "headers": {"content-type": "multipart/form-data"}}, 400, None),
        ({"data": {"purpose": "batch"}, "files": {"file": b"x" * (MAX_FILE_BYTES + 1)}}, 413, None),
        ({"data": {"purpose": "batch"}, "files": [("file", b"x"), ("file", b"y")]}, 400, None),
        ({"data": {"purpose": "batch"}, "files": {"file": ("n" * 600, b"x")}}, 400, "file"),
        ({"data": {"purpose": "batch"}, "files": {"file": ("n", b"\xff\xfe\n")}}, 400, "file"),
    ],
)
def test_a_wrong_upload_is_refused(url: str, form: dict[str, Any], status: int, param: str | None) -> None:
    response = httpx.post(f"{url}/v1/files", **form)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


def test_a_file_may_be_larger_than_other_bodies(client: OpenAI) -> None:
    rows = [line(f"r{index}", body={**COMPLETION, "user": "u" * 900}) for index in range(200)]
    assert upload(client, *rows).bytes > 2 * 64 * 1024


def test_an_upload_and_a_batch_sent_twice_with_one_key_are_made_once(client: OpenAI) -> None:
    twice = {"extra_headers": {"Idempotency-Key": "upload-1"}}
    file = upload(client, line("a", body=COMPLETION), **twice)
    assert upload(client, line("a", body=COMPLETION), **twice).id == file.id
    with pytest.raises(openai.ConflictError) as other:
        upload(client, line("b", body=COMPLETION), **twice)
    assert other.value.response.headers["x-should-retry"] == "false"
    ask = {"input_file_id": file.id, "endpoint": "/v1/completions", "extra_headers": {"Idempotency-Key": "batch-1"}}
    first = client.batches.create(**ask, completion_window="24h")  # type: ignore[call-overload]
    assert client.batches.create(**ask, completion_window="24h").id == first.id  # type: ignore[call-overload]


def test_a_cancelled_batch_keeps_what_is_done_and_frees_its_slots(tmp_path: Path) -> None:
    pace = Pace()
    with served(EchoEngine(num_slots=1, before_step=pace), folder=tmp_path) as (url, _), openai_client(url) as client:
        try:
            batch = submit(client, *(line(f"r{index}", body=COMPLETION) for index in range(20)))
            while pace.steps == 0:
                time.sleep(0.001)
            with pytest.raises(openai.ConflictError):
                client.files.delete(batch.input_file_id)
            assert client.batches.cancel(batch.id).status == "cancelled"
        finally:
            pace.running.set()
        ended = client.batches.retrieve(batch.id)
        assert ended.request_counts is not None
        assert ended.request_counts.total == ended.request_counts.completed + ended.request_counts.failed
        assert ended.error_file_id is not None
        codes = [
            json.loads(row)["error"]["code"] for row in client.files.content(ended.error_file_id).text.splitlines()
        ]
        assert set(codes) == {"batch_cancelled"}
        assert client.completions.create(**COMPLETION).choices[0].text == "abcabc"


def test_a_window_that_cannot_be_kept_is_refused_and_not_to_be_repeated(tmp_path: Path) -> None:
    with served(folder=tmp_path) as (url, _), openai_client(url) as client:
        store = BatchStore(sqlite_url(tmp_path / "batches.sqlite3"))
        store.leases.report_rate("slow", 0.01)
        with pytest.raises(openai.RateLimitError) as refused:
            submit(client, line("a", body=COMPLETION), window="1m")
        store.close()
        assert refused.value.code == "window_cannot_be_kept"
        assert refused.value.param == "completion_window"
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert isinstance(refused.value.body, dict)
        assert refused.value.body["eta_s"] == pytest.approx(9 / 0.01 * 1.1, abs=1)


def test_rows_are_counted_by_tenant_and_outcome(tmp_path: Path) -> None:
    with served(folder=tmp_path) as (url, _), openai_client(url) as client:
        finished(client, submit(client, *(line(f"r{index}", body=COMPLETION) for index in range(3))).id)
        assert metric(url, "tide_serving_batch_rows_total", tenant="default", outcome="succeeded") == 3
        assert metric(url, "tide_serving_requests_total", tier="batch", outcome="length") == 3


def test_an_endpoint_without_a_store_has_no_files() -> None:
    with served() as (url, _):
        assert httpx.get(f"{url}/v1/files").json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=x"])
def test_a_form_that_cannot_be_read_says_so(url: str, content_type: str) -> None:
    answer = httpx.post(f"{url}/v1/files", content=b"nonsense", headers={"content-type": content_type})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_form")
    assert error["message"].startswith("the form cannot be read: ")


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("files/file-nope", "file_id"),
        ("files/file-nope/content", "file_id"),
        ("files?after=file-nope", "after"),
        ("batches/batch_nope", "batch_id"),
        ("batches?after=batch_nope", "after"),
    ],
)
def test_an_id_that_is_not_there_is_named(url: str, path: str, param: str) -> None:
    answer = httpx.get(f"{url}/v1/{path}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, param)
