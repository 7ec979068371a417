"""API keys and limits: who gets in, as whom, how often; and that a key is found nowhere but with its owner."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import threading
from pathlib import Path

import httpx
import openai
import pytest

from orchestrator.cli.main import main
from orchestrator.spec.errors import ExitCode, UserError
from serving.engine.echo import EchoEngine
from serving.http import keys as keys_module
from serving.http.app import HttpConfig, assemble
from serving.http.keys import BadKeyError, KeyRing, create_key, read_keys, revoke_key
from serving.http.limits import Hold, Limit, Limited, Limiter, TenantLimits
from tests.serving.batch.worlds import line
from tests.serving.http.server import openai_client, running_service, served
from tests.serving.http.test_lifecycle import Pace, hang_up, metric, until

BODY = {"model": "gpt-demo", "prompt": "abc", "max_tokens": 4}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def ask(url: str, key: str | None, body: dict[str, object] | None = None) -> httpx.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/v1/completions", json=body or BODY, headers=headers)


def test_a_key_lets_in_and_nothing_else_does(file: Path) -> None:
    key, record = create_key(file, tenant="apps")
    with served(ring=KeyRing(file)) as (url, _):
        assert ask(url, key).status_code == 200
        for wrong in (None, "x", "nonsense", key[:-1], key[:-1] + ("a" if key[-1] != "a" else "b"),
                      f"tide_{'0' * 12}_{key[18:]}", "tide_é", record.id):  # fmt: skip
            headers = {} if wrong is None else {"authorization": f"Bearer {wrong}".encode()}
            for path in ("/v1/models", "/metrics", "/openapi.json", "/v1/files"):
                refused = httpx.get(url + path, headers=headers)
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
                assert refused.json()["error"]["type"] == "authentication_error"
        assert httpx.get(f"{url}/healthz").status_code == httpx.get(f"{url}/readyz").status_code == 200
        assert httpx.get(f"{url}/v1/models", headers={"authorization": f"Basic {key}"}).status_code == 401


def test_a_revoked_key_is_refused_at_the_next_request(file: Path) -> None:
    key, record = create_key(file, tenant="apps")
    other, _ = create_key(file, tenant="apps")
    with served(ring=KeyRing(file)) as (url, _):
        assert ask(url, key).status_code == 200
        revoke_key(file, record.id)
        refused = ask(url, key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "key_revoked")
        assert ask(url, other).status_code == 200


def test_a_key_that_is_made_while_serving_works_at_once(file: Path) -> None:
    create_key(file, tenant="a")
    with served(ring=KeyRing(file)) as (url, _):
        assert ask(url, create_key(file, tenant="b")[0]).status_code == 200


def test_a_key_opens_only_its_tiers(file: Path) -> None:
    key, _ = create_key(file, tenant="apps", tiers=["keystroke"])
    with served(ring=KeyRing(file)) as (url, _), openai_client(url, key) as client:
        done = client.completions.create(**BODY)  # type: ignore[call-overload]
        assert done.service_tier == "priority"
        with pytest.raises(openai.PermissionDeniedError) as refused:
            client.completions.create(**BODY, extra_body={"service_tier": "flex"})  # type: ignore[call-overload]
        assert (refused.value.code, refused.value.param) == ("tier_not_allowed", "service_tier")


def test_nobody_is_let_in_while_the_file_cannot_be_read(file: Path) -> None:
    key, _ = create_key(file, tenant="apps")
    with served(ring=KeyRing(file)) as (url, _):
        content = file.read_bytes()
        file.write_text("{")
        assert ask(url, key).json()["error"]["code"] == "keys_unreadable"
        file.unlink()
        assert ask(url, key).status_code == 503
        file.write_bytes(content)
        assert ask(url, key).status_code == 200


def test_the_file_holds_salted_hashes_for_its_owner_alone(file: Path) -> None:
    first, second = create_key(file, tenant="apps")[0], create_key(file, tenant="apps")[0]
    content = file.read_text()
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert all(key.split("_", 2)[2] not in content for key in (first, second))
    records = read_keys(file).keys
    assert len({record.salt for record in records}) == len({record.hash for record in records}) == 2


def test_a_key_is_hashed_once_and_a_wrong_one_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, _ = create_key(file, tenant="apps")
    ring, hashed, plain = KeyRing(file), [], keys_module._hash
    monkeypatch.setattr(keys_module, "_hash", lambda *args: hashed.append(1) or plain(*args))
    wrong = key[:-1] + ("a" if key[-1] != "a" else "b")
    for _ in range(3):
        assert (ring.known(key) or ring.check(key)).tenant == "apps"
        with pytest.raises(BadKeyError):
            ring.known(wrong) or ring.check(wrong)
    assert len(hashed) == 2


def test_a_file_that_is_no_keys_file_is_refused_without_quoting_it(file: Path) -> None:
    file.write_text('{"keys": [{"secret": "hunter2"}]}')
    with pytest.raises(UserError, match="no keys file") as refused:
        KeyRing(file)
    assert "hunter2" not in str(refused.value)
    with pytest.raises(UserError, match="no such keys file"):
        KeyRing(file.with_name("absent"))


def test_keys_are_in_no_log_and_no_error(file: Path, caplog: pytest.LogCaptureFixture,
                                         capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    key, _ = create_key(file, tenant="apps")

    def explode() -> None:
        raise RuntimeError("no memory")

    caplog.set_level(logging.DEBUG)
    wrong = key[:-1] + "!"
    with served(EchoEngine(before_step=explode), ring=KeyRing(file)) as (url, _):
        answers = [ask(url, key), ask(url, wrong), ask(url, key, {"model": 5}), ask(url, key)]
    told = caplog.text + "".join(capfd.readouterr()) + "".join(f"{each.text}{each.headers}" for each in answers)
    assert key.split("_", 2)[2][:-1] not in told
    assert {each.status_code for each in answers} == {503, 401, 400}


def test_without_keys_only_this_machine_is_answered() -> None:
    async def status(host: str) -> int:
        transport = httpx.ASGITransport(app=app, client=(host, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return (await client.get("/v1/models")).status_code

    with running_service() as service:
        app = assemble(service, HttpConfig(max_body_bytes=1000)).app
        hosts = ("127.0.0.1", "::1", "::ffff:127.0.0.1", "192.168.1.5", "2001:db8::1", "::ffff:10.0.0.1")
        assert [asyncio.run(status(host)) for host in hosts] == [200, 200, 200, 403, 403, 403]


def test_tenants_share_neither_sessions_nor_files(file: Path, tmp_path: Path) -> None:
    keys = [create_key(file, tenant=tenant)[0] for tenant in "ab"]
    pace = Pace()
    pace.running.set()
    with served(EchoEngine(before_step=pace, max_context=3_000_000), ring=KeyRing(file), folder=tmp_path,
                max_tokens=2_000_000) as (url, _):  # fmt: skip
        with openai_client(url, keys[0]) as first, openai_client(url, keys[1]) as second:
            uploaded = first.files.create(file=("x", line("r", body=BODY)), purpose="batch")
            with pytest.raises(openai.NotFoundError):
                second.files.retrieve(uploaded.id)
            keystroke = {"service_tier": "priority", "prompt_cache_key": "editor"}
            ask_for = {"model": "gpt-demo", "prompt": "abc", "extra_body": keystroke}
            old = first.completions.create(**ask_for, max_tokens=2_000_000, stream=True)  # type: ignore[call-overload]
            next(iter(old))
            second.completions.create(**ask_for, max_tokens=2)  # type: ignore[call-overload]
            next(iter(old))  # still going
            first.completions.create(**ask_for, max_tokens=2)  # type: ignore[call-overload]
            assert list(old)[-1].choices[0].finish_reason == "superseded"


def test_requests_a_minute_are_limited_with_the_time_to_come_again(file: Path) -> None:
    keys = [create_key(file, tenant=tenant)[0] for tenant in "ab"]
    with served(ring=KeyRing(file), limits=TenantLimits(requests_per_min=3)) as (url, _):
        assert [ask(url, keys[0]).status_code for _ in range(3)] == [200] * 3
        with openai_client(url, keys[0]) as client, pytest.raises(openai.RateLimitError) as refused:
            client.completions.create(**BODY)  # type: ignore[call-overload]
        assert refused.value.code == "requests_per_min"
        headers = refused.value.response.headers
        assert 15_000 < int(headers["retry-after-ms"]) <= 20_000
        assert 15 < int(headers["retry-after"]) <= 20
        assert ask(url, keys[1]).status_code == 200
        text = httpx.get(f"{url}/metrics", headers={"authorization": f"Bearer {keys[1]}"}).text
        assert 'tide_serving_limited_total{limit="requests_per_min",tenant="a"} 1.0' in text


def test_tokens_that_are_not_used_are_given_back() -> None:
    with served(limits=TenantLimits(tokens_per_min=20)) as (url, _):
        stopped = {"model": "gpt-demo", "prompt": "ab.", "max_tokens": 16, "stop": "."}
        assert ask(url, None, stopped).json()["usage"]["total_tokens"] == 6
        assert ask(url, None, {**BODY, "max_tokens": 11}).status_code == 200  # 6 + 14 = 20
        refused = ask(url, None, {**BODY, "max_tokens": 1})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "tokens_per_min")
        never = ask(url, None, {**BODY, "max_tokens": 30})
        assert (never.status_code, never.headers["x-should-retry"]) == (429, "false")
        assert "retry-after" not in never.headers


def test_requests_at_once_are_limited_until_one_ends() -> None:
    pace = Pace()
    with served(EchoEngine(before_step=pace, max_context=3_000_000), limits=TenantLimits(concurrency=1),
                max_tokens=2_000_000) as (url, _):  # fmt: skip
        pace.running.set()
        for stream in (True, False):
            steps = pace.steps
            body = {**BODY, "max_tokens": 2_000_000, "stream": stream}
            hang_up(url, body, when=lambda since=steps: pace.steps > since and _is_limited(url))
            until(lambda: ask(url, None).status_code == 200)
        assert metric(url, "tide_serving_limited_total", limit="concurrency") > 0


def _is_limited(url: str) -> bool:
    answer = ask(url, None)
    return answer.status_code == 429 and answer.json()["error"]["code"] == "concurrency"


def test_a_refused_request_is_granted_at_the_time_it_was_told() -> None:
    limiter, now_s = Limiter(TenantLimits(tokens_per_min=600, requests_per_min=60)), 0.0
    for tokens in (500, 90, 300, 600, 10, 599):
        verdict = limiter.take("t", tokens, now_s=now_s)
        if isinstance(verdict, Limited):
            assert verdict.retry_after_s is not None
            early = now_s + verdict.retry_after_s * 0.99
            assert isinstance(limiter.take("t", tokens, now_s=early), Limited)
            now_s += verdict.retry_after_s + 1e-9
            verdict = limiter.take("t", tokens, now_s=now_s)
        assert isinstance(verdict, Hold)


def test_a_hold_is_released_once() -> None:
    limiter = Limiter(TenantLimits(concurrency=1, tokens_per_min=100))
    held = limiter.take("t", 10, now_s=0.0)
    assert isinstance(held, Hold)
    for _ in range(2):
        limiter.release(held, used_tokens=10, now_s=1.0)
    assert isinstance(limiter.take("t", 10, now_s=1.0), Hold)
    busy = limiter.take("t", 10, now_s=1.0)
    assert isinstance(busy, Limited)
    assert busy.limit is Limit.CONCURRENCY


def test_tide_keys_creates_lists_and_revokes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def tide(*arguments: str) -> dict[str, object]:
        with pytest.raises(SystemExit) as done:
            main(["keys", *arguments, "-o", "json"])
        assert done.value.code == ExitCode.OK
        document: dict[str, object] = json.loads(capsys.readouterr().out)
        return document

    made = tide("create", str(file), "--tenant", "apps", "--tier", "batch", "--note", "nightly")
    assert (made["tenant"], made["tiers"], made["kind"]) == ("apps", ["batch"], "ApiKey")
    assert KeyRing(file).check(str(made["key"])).tenant == "apps"
    listed = tide("ls", str(file))
    assert str(made["key"]) not in json.dumps(listed)
    assert [item["id"] for item in listed["items"]] == [made["id"]]  # type: ignore[attr-defined]
    assert tide("revoke", str(file), str(made["id"]))["revoked_at"] is not None
    with pytest.raises(SystemExit) as unknown:
        main(["keys", "revoke", str(file), "absent"])
    assert unknown.value.code == ExitCode.UNKNOWN


def test_keys_made_at_the_same_time_are_all_kept(file: Path) -> None:
    threads = [threading.Thread(target=create_key, args=(file,), kwargs={"tenant": f"t{index}"}) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {record.tenant for record in read_keys(file).keys} == {f"t{index}" for index in range(6)}


def test_limits_and_open_paths_hold_below_a_mount(file: Path) -> None:
    """Tiers with replicas of their own answer below a path of theirs."""
    key, _ = create_key(file, tenant="apps")

    async def statuses() -> list[int]:
        transport = httpx.ASGITransport(app=app, root_path="/keystroke")
        async with httpx.AsyncClient(transport=transport, base_url="http://x/keystroke") as client:
            asked = [await client.get("/v1/models", headers={"authorization": f"Bearer {key}"}) for _ in range(3)]
            healthy, nobody = await client.get("/healthz"), await client.get("/v1/models")
            return [answer.status_code for answer in (*asked, healthy, nobody)]

    with running_service() as service:
        limits = TenantLimits(requests_per_min=2)
        app = assemble(service, HttpConfig(max_body_bytes=1000, ring=KeyRing(file), limits=limits)).app
        assert asyncio.run(statuses()) == [200, 200, 429, 200, 401]
