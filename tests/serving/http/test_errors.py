"""Bad input: an OpenAI-shaped 4xx that names the field, never a 500, and the endpoint goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from serving.engine.echo import EchoEngine
from tests.serving.http.server import MAX_BODY_BYTES, openai_client, served

GOOD = {"model": "gpt-demo", "prompt": "abc"}


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with served(EchoEngine(max_context=64)) as (url, _), httpx.Client(base_url=url) as client:
        yield client


def error_of(response: httpx.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    ("change", "status", "param", "message"),
    [
        ({"model": "gpt-9"}, 404, "model", "the model 'gpt-9' does not exist here; 'gpt-demo' is served. N"),
        ({"prompt": "x" * 61}, 400, "prompt", "this model's context is 64 tokens; you asked for 65 (61 in the "),
        ({"prompt": "x" * 65}, 400, "prompt", "this model's context is 64 tokens"),
        ({"prompt": ""}, 400, "prompt", "prompt: there must be something to continue"),
        ({"prompt": []}, 400, "prompt", "prompt: 0 prompts in one request"),
        ({"prompt": ["a", "b"]}, 400, "prompt", "prompt: 2 prompts in one request; this endpoint takes one"),
        ({"prompt": [1, 256]}, 400, "prompt", "prompt: tokens must be 0..255"),
        ({"prompt": "\ud800"}, 400, "prompt", "prompt: the text holds a lone surrogate"),
        ({"prompt": 5}, 400, "prompt", "prompt: must be text, a list of one text, or a list of tokens"),
        ({"prompt": None}, 400, "prompt", "prompt: must be text, a list of one text, or a list of tokens"),
        ({"prompt": [1, "a"]}, 400, "prompt", "prompt: must be text, a list of one text, or a list of tokens"),
        ({"n": 2}, 400, "n", "n: 2 answers in one request; this endpoint makes one, so it must be 1"),
        ({"best_of": 3}, 400, "best_of", "best_of: 3 answers for one request"),
        ({"max_tokens": -1}, 400, "max_tokens", "max_tokens: Input should be greater than or equal to 1"),
        ({"max_tokens": 0}, 400, "max_tokens", "max_tokens: "),
        ({"max_tokens": 401}, 400, "max_tokens", "max_tokens: 401 is above 400, the most this tier answers"),
        ({"max_tokens": "many"}, 400, "max_tokens", "max_tokens: "),
        ({"max_tokens": "4"}, 400, "max_tokens", "max_tokens: Input should be a valid integer"),
        ({"max_tokens": True}, 400, "max_tokens", "max_tokens: Input should be a valid integer"),
        ({"temperature": "0.5"}, 400, "temperature", "temperature: Input should be a valid number"),
        ({"stream": "yes"}, 400, "stream", "stream: Input should be a valid boolean"),
        ({"temperature": 2.5}, 400, "temperature", "temperature: "),
        ({"temperature": "NaN"}, 400, "temperature", "temperature: "),
        ({"top_p": 0}, 400, "top_p", "top_p: "),
        ({"seed": 2**63}, 400, "seed", "seed: "),
        ({"stop": ["a"] * 5}, 400, "stop", "stop: "),
        ({"stop": [""]}, 400, "stop[0]", "stop[0]: "),
        ({"service_tier": "gold"}, 400, "service_tier", "service_tier: Input should be 'auto', 'default', "),
        ({"logprobs": 3}, 400, "logprobs", "logprobs: is not supported by this endpoint; leave it out"),
        ({"suffix": "x"}, 400, "suffix", "suffix: is not supported"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty", "presence_penalty: is not supported"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", "stream_options: has an effect"),
        ({"temprature": 1}, 400, "temprature", "temprature: there is no such option here; check its spelling"),
        ({"echo": True, "prompt": [97]}, 400, "echo", "echo: a prompt of tokens cannot be echoed"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(
    http: httpx.Client, change: dict[str, Any], status: int, param: str, message: str
) -> None:
    body = json.dumps({**GOOD, "max_tokens": 4, **change})
    response = http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    error = error_of(response)
    assert (response.status_code, error["param"], error["type"]) == (status, param, "invalid_request_error")
    assert error["message"].startswith(message)


NO_OBJECT = "the body must be a JSON object, sent with 'content-type: application/json'"


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"{x", "application/json", "the body is not JSON: Expecting property name enclosed in double quotes at "
                                    "character 1"),
        (b'{"model": "gpt-demo"', "application/json", "the body is not JSON: Expecting ',' delimiter at character 20"),
        (b'{"prompt": "\xff"}', "application/json", "the body is not UTF-8: byte 12 is wrong"),
        (b"[" * 20_000, "application/json", "the body is nested too deeply"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "application/json", "the body holds a number with too many digits"),
        (b"", "application/json", NO_OBJECT),
        (b"[]", "application/json", NO_OBJECT),
        (b"null", "application/json", NO_OBJECT),
        (b'"x"', "application/json", NO_OBJECT),
        (json.dumps(GOOD).encode(), "application/x-www-form-urlencoded", NO_OBJECT),  # curl's, where nothing is said
    ],
)  # fmt: skip
def test_a_body_that_is_no_json_object_is_a_400_that_says_so(
    http: httpx.Client, content: bytes, kind: str, message: str
) -> None:
    response = http.post("/v1/completions", content=content, headers={"content-type": kind})
    assert (response.status_code, error_of(response)) == (
        400,
        {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_json"},
    )


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, "part 1 is 'image_url'; only text is read here"),
        ("hi", "part 1 is 'hi'; only text is read here"),
        ({"type": "text"}, "part 1 must have a type and a text, and nothing else"),
        ({"type": "text", "text": "a", "more": 1}, "part 1 must have a type and a text, and nothing else"),
    ],
)
def test_a_part_of_a_message_that_is_no_text_is_named(http: httpx.Client, part: Any, message: str) -> None:
    parts = [{"type": "text", "text": "a"}, part]
    body = {"model": "gpt-demo", "messages": [{"role": "user", "content": parts}]}
    error = error_of(http.post("/v1/chat/completions", json=body))
    assert (error["param"], error["message"]) == ("messages[0].content", f"messages[0].content: {message}")


def test_what_is_not_there_says_what_is(http: httpx.Client) -> None:
    missing = error_of(http.get("/v1/nothing"))
    assert missing["message"] == "there is no GET /v1/nothing; /openapi.json lists what there is"
    wrong = http.get("/v1/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert error_of(wrong)["message"] == "there is no GET /v1/completions; POST is right"


def test_broken_json_says_so(http: httpx.Client) -> None:
    response = http.post("/v1/completions", content=b'{"model": ', headers={"content-type": "application/json"})
    assert error_of(response)["code"] == "invalid_json"


def test_neutral_values_of_options_without_effect_are_accepted(http: httpx.Client) -> None:
    neutral = {"n": 1, "best_of": 1, "presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}, "user": "someone"}
    assert http.post("/v1/completions", json={**GOOD, **neutral, "max_tokens": 2}).status_code == 200


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_a_413(http: httpx.Client, announced: bool) -> None:
    content = b'{"prompt": "' + b"x" * (10 * 2**20) + b'"}'
    sent = content if announced else iter([content[at : at + 4096] for at in range(0, len(content), 4096)])
    try:
        response = http.post("/v1/completions", content=sent)
    except (httpx.WriteError, httpx.ReadError):  # the server may hang up while a refused body is still being sent
        assert http.get("/healthz").status_code == 200
        return
    assert response.status_code == 413
    assert error_of(response)["message"] == f"the body is larger than {MAX_BODY_BYTES:,} bytes; send less at once"


def test_unknown_urls_and_methods_have_the_same_shape(http: httpx.Client) -> None:
    assert error_of(http.get("/v1/nothing"))["code"] == "unknown_url"
    assert error_of(http.get("/v1/completions"))["code"] == "method_not_allowed"
    assert error_of(http.get("/v1/models/absent"))["code"] == "model_not_found"
    forgotten = error_of(http.post("/completions", json=GOOD))  # a base_url without its end
    assert forgotten["message"] == (
        "there is no POST /completions; /v1/completions is meant? A client's base_url ends with /v1"
    )


def test_a_chat_with_a_wrong_message_names_its_place(http: httpx.Client) -> None:
    body = {"model": "gpt-demo", "messages": [{"role": "user", "content": "hi"}, {"role": "robot", "content": "x"}]}
    assert error_of(http.post("/v1/chat/completions", json=body))["param"] == "messages[1].role"
    empty = {"model": "gpt-demo", "messages": []}
    assert error_of(http.post("/v1/chat/completions", json=empty))["param"] == "messages"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": [{"role": "user", "content": "x" * 80}]}, "messages"),
        ({"max_completion_tokens": 401}, "max_completion_tokens"),
        ({"max_tokens": 401}, "max_tokens"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
    ],
)
def test_an_error_of_a_chat_names_the_chats_own_field(http: httpx.Client, change: dict[str, Any], param: str) -> None:
    body = {"model": "gpt-demo", "messages": [{"role": "user", "content": "hi"}], **change}
    error = error_of(http.post("/v1/chat/completions", json=body))
    assert error["param"] == param


def test_the_client_raises_its_own_exceptions(http: httpx.Client) -> None:
    with openai_client(str(http.base_url).rstrip("/")) as client:
        with pytest.raises(openai.NotFoundError) as missing:
            client.completions.create(model="gpt-9", prompt="x")
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError) as too_long:
            client.completions.create(model="gpt-demo", prompt="x" * 100)
        assert too_long.value.code == "context_length_exceeded"


def test_a_broken_engine_is_a_503_and_not_ready() -> None:
    def explode() -> None:
        raise RuntimeError("no memory")

    with served(EchoEngine(before_step=explode)) as (url, _), httpx.Client(base_url=url) as client:
        assert client.get("/readyz").status_code == 200
        response = client.post("/v1/completions", json=GOOD)
        assert (response.status_code, error_of(response)["code"]) == (503, "engine_unavailable")
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
