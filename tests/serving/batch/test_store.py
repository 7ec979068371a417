"""The store's promises, on SQLite and on PostgreSQL: rows leased once, committed once, ended once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from orchestrator.spec.errors import UserError
from serving.batch.records import (
    BatchError,
    BatchStatus,
    ConflictError,
    FileKind,
    Purpose,
    UnknownError,
    WindowError,
)
from serving.batch.store import BatchStore
from tests.serving.batch.postgres import is_installed, running_postgres
from tests.serving.batch.worlds import URL, World, answer, indexes, line, lines, sqlite_world

_names = itertools.count()


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    if not is_installed():
        pytest.skip("PostgreSQL is not installed")
    with running_postgres() as server:
        yield server.url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.cluster)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "sqlite":
        world = sqlite_world(tmp_path)
    else:
        url = request.getfixturevalue("postgres_url")
        name = f"store_{next(_names)}"
        engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        world = World(url.replace("/postgres?", f"/{name}?"))
    yield world
    world.store.close()


def test_a_batch_runs_from_upload_to_its_output(world: World) -> None:
    batch = world.batch(3, metadata={"who": "me"})
    assert (batch.status, batch.total, batch.tokens_left, batch.metadata) == ("in_progress", 3, 30, {"who": "me"})
    first, second, third = world.store.leases.lease(10)
    assert (first.index, first.custom_id, first.url, first.line) == (0, "row-0", URL, lines(1))
    assert world.commit(first, third) == 2
    assert world.commit(second, status=400) == 1
    done = world.get(batch)
    assert (done.status, done.completed, done.failed, done.tokens_left) == (BatchStatus.COMPLETED, 2, 1, 0)
    assert (done.prompt_tokens, done.completion_tokens, done.ended_s) == (9, 6, world.clock.now_s)
    good, bad = world.content(done.output_file_id), world.content(done.error_file_id)
    assert [(each["custom_id"], each["response"]["body"], each["error"]) for each in good] == [
        ("row-0", {"text": "row-0"}, None), ("row-2", {"text": "row-2"}, None)]  # fmt: skip
    assert [(each["custom_id"], each["response"]["status_code"]) for each in bad] == [("row-1", 400)]


def test_a_row_is_leased_to_one_holder_in_order(world: World) -> None:
    world.batch(5)
    taken = [indexes(world.store.leases.lease(2)) for _ in range(4)]
    assert taken == [[0, 1], [2, 3], [4], []]


def test_the_batch_that_expires_first_is_served_first(world: World) -> None:
    late, soon = world.batch(2, window_s=900), world.batch(2, window_s=60)
    assert [row.batch_id for row in world.store.leases.lease(3)] == [soon.id, soon.id, late.id]


def test_an_expired_lease_is_taken_back_and_its_late_commit_does_not_count(world: World) -> None:
    batch = world.batch(1)
    (first,) = world.store.leases.lease(1)
    world.clock.now_s += 29
    assert world.store.leases.lease(1) == []
    world.clock.now_s += 2
    (second,) = world.store.leases.lease(1)
    assert second.index == first.index
    assert (world.commit(first), world.commit(second), world.commit(second)) == (0, 1, 0)
    assert world.get(batch).completed == 1


def test_a_late_commit_counts_while_nobody_has_taken_the_row_back(world: World) -> None:
    batch = world.batch(1)
    (row,) = world.store.leases.lease(1)
    world.clock.now_s += 1000
    assert world.commit(row) == 1
    assert world.get(batch).status is BatchStatus.COMPLETED


def test_a_renewed_lease_lasts(world: World) -> None:
    world.batch(2)
    kept, dropped = world.store.leases.lease(2)
    world.clock.now_s += 20
    assert world.store.leases.renew([kept]) == []
    world.clock.now_s += 20
    assert indexes(world.store.leases.lease(5)) == [dropped.index]
    assert world.store.leases.renew([kept, dropped]) == [dropped]


def test_returned_rows_are_next_in_line_and_cost_no_retry(world: World) -> None:
    world.batch(2)
    for _ in range(10):
        leased = world.store.leases.lease(2)
        assert indexes(leased) == [0, 1]
        world.store.leases.give_back(leased)


def test_a_row_that_kills_replicas_fails_after_its_retries(tmp_path: Path) -> None:
    world = sqlite_world(tmp_path, retries=2)
    batch = world.batch(2)
    (good,) = world.store.leases.lease(1)
    world.commit(good)
    for _ in range(3):
        assert indexes(world.store.leases.lease(1)) == [1]
        world.clock.now_s += 31
    assert world.store.leases.lease(1) == []
    done = world.get(batch)
    assert (done.status, done.completed, done.failed, done.tokens_left) == (BatchStatus.COMPLETED, 1, 1, 0)
    assert world.content(done.error_file_id)[0]["error"]["code"] == "retries_exhausted"


def test_at_the_end_of_its_window_a_batch_keeps_what_is_done(world: World) -> None:
    batch = world.batch(4, window_s=60)
    leased = world.store.leases.lease(3)
    world.commit(leased[1])
    world.clock.now_s += 60
    assert world.store.leases.lease(1) == []
    ended = world.get(batch)
    assert (ended.status, ended.completed, ended.failed) == (BatchStatus.EXPIRED, 1, 3)
    assert [each["custom_id"] for each in world.content(ended.output_file_id)] == ["row-1"]
    errors = world.content(ended.error_file_id)
    assert [(each["custom_id"], each["response"], each["error"]["code"]) for each in errors] == [
        (name, None, "batch_expired") for name in ("row-0", "row-2", "row-3")
    ]
    assert (world.commit(leased[0]), world.store.leases.renew(leased)) == (0, leased)
    assert world.get(batch) == ended


def test_a_cancelled_batch_keeps_what_is_done_and_voids_its_leases(world: World) -> None:
    batch = world.batch(3)
    leased = world.store.leases.lease(2)
    world.commit(leased[0])
    cancelled = world.store.batches.cancel("t", batch.id)
    assert (cancelled.status, cancelled.completed, cancelled.failed) == (BatchStatus.CANCELLED, 1, 2)
    assert (world.commit(leased[1]), world.store.leases.lease(5)) == (0, [])
    assert len(world.content(cancelled.output_file_id)) == 1
    assert world.content(cancelled.error_file_id)[0]["error"]["code"] == "batch_cancelled"
    assert world.store.batches.cancel("t", batch.id) == cancelled


def test_a_batch_that_has_ended_cannot_be_cancelled(world: World) -> None:
    batch = world.batch(1)
    world.commit(*world.store.leases.lease(1))
    with pytest.raises(ConflictError, match="has ended already: completed"):
        world.store.batches.cancel("t", batch.id)


def test_files_come_back_byte_by_byte(world: World) -> None:
    content = b"\n" + line("a") + b"\n" + line("b").rstrip()
    file = world.upload(content=content)
    assert b"".join(world.store.files.content(file)) == content
    assert (file.num_bytes, file.purpose) == (len(content), Purpose.BATCH)


def test_a_long_file_is_read_in_pieces(tmp_path: Path) -> None:
    world = sqlite_world(tmp_path)
    file = world.upload(700)
    pieces = list(world.store.files.content(file))
    assert len(pieces) == 2
    assert b"".join(pieces) == lines(700)


def test_tenants_do_not_see_each_other(world: World) -> None:
    file, batch = world.upload(tenant="a"), world.batch(tenant="a")
    for ask in (
        lambda: world.store.files.get("b", file.id),
        lambda: world.store.files.delete("b", file.id),
        lambda: world.store.batches.get("b", batch.id),
        lambda: world.store.batches.cancel("b", batch.id),
        lambda: world.batch(tenant="b", file=file),
    ):
        with pytest.raises(UnknownError):
            ask()
    assert world.store.batches.page("b", limit=9, after=None) == ([], False)


def test_lists_are_paged(world: World) -> None:
    made = []
    for _ in range(5):
        made.append(world.batch(1))
        world.clock.now_s += 1
    first, more = world.store.batches.page("t", limit=3, after=None)
    rest, end = world.store.batches.page("t", limit=3, after=first[-1].id)
    assert ([*first, *rest], more, end) == (made[::-1], True, False)
    kinds = list(FileKind)
    files, _ = world.store.files.page("t", limit=2, after=None, kinds=kinds, newest_first=False)
    assert [file.id for file in files] == [batch.input_file_id for batch in made[:2]]


def test_a_file_that_a_batch_reads_is_not_deleted(world: World) -> None:
    batch = world.batch(1)
    with pytest.raises(ConflictError, match=batch.id):
        world.store.files.delete("t", batch.input_file_id)
    world.commit(*world.store.leases.lease(1))
    done = world.get(batch)
    for file_id in (done.input_file_id, done.output_file_id):
        assert file_id is not None
        world.store.files.delete("t", file_id)
        with pytest.raises(UnknownError):
            world.store.files.get("t", file_id)


def test_a_batch_of_lines_for_another_endpoint_is_refused(world: World) -> None:
    file = world.upload(content=lines(2) + line("x", url="/v1/embeddings"))
    with pytest.raises(BatchError, match=r"request 3 of the file is for /v1/embeddings"):
        world.batch(file=file)


def test_an_output_file_is_no_input(world: World) -> None:
    batch = world.batch(1)
    world.commit(*world.store.leases.lease(1))
    output = world.store.files.get("t", world.get(batch).output_file_id or "")
    with pytest.raises(BatchError, match="output of a batch"):
        world.batch(file=output)


def test_the_same_idempotency_key_makes_one_batch_and_one_file(world: World) -> None:
    file = world.upload(3, idempotency_key="f")
    assert world.upload(3, idempotency_key="f") == file
    with pytest.raises(ConflictError, match="another upload"):
        world.upload(4, idempotency_key="f")
    batch = world.batch(file=file, idempotency_key="b")
    assert world.batch(file=file, idempotency_key="b") == batch
    with pytest.raises(ConflictError, match="another batch"):
        world.batch(file=file, idempotency_key="b", metadata={"x": "y"})


def test_a_window_that_measured_slack_cannot_keep_is_refused_with_an_eta(world: World) -> None:
    file = world.upload(20)  # 200 tokens
    world.store.leases.report_rate("r1", 1.1)  # one a second, after the reserve
    world.store.leases.report_rate("r1", 1.1)
    with pytest.raises(WindowError) as refused:
        world.batch(file=file, window_s=60)
    assert (round(refused.value.eta_s), refused.value.retry_after_s) == (200, None)
    world.batch(file=file, window_s=210)
    with pytest.raises(WindowError) as refused:
        world.batch(file=file, window_s=210)
    assert (round(refused.value.eta_s), round(refused.value.retry_after_s or 0)) == (400, 190)
    world.store.leases.report_rate("r2", 1.1)
    world.batch(file=file, window_s=210)


def test_a_replica_that_is_silent_does_not_count(world: World) -> None:
    file = world.upload(20)
    world.store.leases.report_rate("dead", 0.1)
    with pytest.raises(WindowError):
        world.batch(file=file, window_s=60)
    world.clock.now_s += 21
    world.batch(file=file, window_s=60)


def test_everything_is_there_after_the_store_is_opened_again(world: World) -> None:
    batch = world.batch(3)
    leased = world.store.leases.lease(2)
    world.commit(leased[0])
    world.store.close()
    world.store = world.open()
    assert world.get(batch).completed == 1
    assert world.commit(leased[1]) == 1
    assert indexes(world.store.leases.lease(5)) == [2]


def test_many_holders_commit_every_row_exactly_once(world: World) -> None:
    """Four threads with stores of their own; each also commits what it has committed before."""
    batch = world.batch(120)
    counts: list[int] = []

    def work() -> None:
        store = world.open()
        leases, committed = store.leases, 0
        while leased := leases.lease(7):
            results = [(row, answer(row)) for row in leased]
            committed += len(leases.commit(results)) + len(leases.commit(results))
        store.close()
        counts.append(committed)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = world.get(batch)
    assert (sum(counts), done.completed, done.status) == (120, 120, BatchStatus.COMPLETED)


def test_a_store_of_another_format_is_refused(tmp_path: Path) -> None:
    world = sqlite_world(tmp_path)
    world.store.close()
    engine = create_engine(world.url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE store_version SET version = 99"))
    engine.dispose()
    with pytest.raises(UserError, match="format 99"):
        world.open()


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite:////nowhere/at/all.sqlite3"])
def test_a_store_that_cannot_be_opened_says_so(url: str) -> None:
    with pytest.raises(UserError):
        BatchStore(url)
