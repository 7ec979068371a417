"""What applications see: the real `openai` client against a running endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from serving.http.limits import TenantLimits
from tests.serving.http.server import openai_client, served
from tests.serving.worlds import tiny_engine, tiny_model


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served() as (url, _):
        yield url


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with openai_client(url) as client:
        yield client


def complete(client: OpenAI, prompt: str = "abc", **options):
    return client.completions.create(model="gpt-demo", prompt=prompt, **options)


def test_models_lists_the_version_that_answers(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.created, model.version) == ("gpt-demo", 1_760_000_000, "gpt-demo@3")  # type: ignore[attr-defined]
    assert client.models.retrieve("gpt-demo@3").id == "gpt-demo"


def test_a_completion_has_openais_shape(client: OpenAI) -> None:
    done = complete(client, max_tokens=7)
    assert (done.choices[0].text, done.choices[0].finish_reason, done.choices[0].index) == ("abcabca", "length", 0)
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (3, 7, 10)
    assert (done.object, done.model) == ("text_completion", "gpt-demo")
    assert done.id.startswith("cmpl-")


def test_max_tokens_defaults_to_openais_16(client: OpenAI) -> None:
    assert complete(client).usage.completion_tokens == 16


@pytest.mark.parametrize(
    ("asked", "used"),
    [(None, "default"), ("auto", "default"), ("default", "default"), ("priority", "priority"), ("flex", "flex")],
)
def test_the_tier_really_used_is_echoed(client: OpenAI, asked: str | None, used: str) -> None:
    done = complete(client, max_tokens=2, extra_body={"service_tier": asked} if asked else {})
    assert done.service_tier == used  # type: ignore[attr-defined]


def test_a_streamed_completion_is_the_whole_one_in_pieces(client: OpenAI) -> None:
    chunks = list(complete(client, "aé€", max_tokens=13, stream=True, stream_options={"include_usage": True}))
    whole = complete(client, "aé€", max_tokens=13)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-2:] == [None, "length"]
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_stop_strings_end_an_answer_and_do_not_appear(client: OpenAI) -> None:
    for stream in (False, True):
        answer = complete(client, "one. two. ", max_tokens=50, stop=["two", "xyz"], stream=stream)
        texts = [chunk.choices[0].text for chunk in answer] if stream else [answer.choices[0].text]
        assert "".join(texts) == "one. "
    assert complete(client, "a.b", max_tokens=50, stop=".").choices[0].finish_reason == "stop"


def test_echo_puts_the_prompt_before_the_answer(client: OpenAI) -> None:
    assert complete(client, "xy", max_tokens=2, echo=True).choices[0].text == "xyxy"
    streamed = complete(client, "xy", max_tokens=2, echo=True, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == "xyxy"


def test_prompts_may_be_tokens_or_a_list_of_one(client: OpenAI) -> None:
    assert complete(client, [97, 98], max_tokens=2).choices[0].text == "ab"  # type: ignore[arg-type]
    assert complete(client, ["ab"], max_tokens=2).choices[0].text == "ab"  # type: ignore[arg-type]


def test_a_chat_is_answered_as_the_assistant(client: OpenAI) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    done = client.chat.completions.create(model="gpt-demo", messages=messages, max_completion_tokens=18)  # type: ignore[arg-type]
    assert done.choices[0].message.role == "assistant"
    assert done.choices[0].message.content == "system: Be brief.\n"
    assert done.usage.prompt_tokens == len("system: Be brief.\nuser: Hi\nassistant: ")
    stream = client.chat.completions.create(model="gpt-demo", messages=messages, max_tokens=18, stream=True)  # type: ignore[arg-type]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "system: Be brief.\n"


def test_an_answer_is_part_of_the_next_turn_as_it_came(client: OpenAI) -> None:
    turns: list[Any] = [{"role": "user", "content": "Hi"}]
    done = client.chat.completions.create(model="gpt-demo", messages=turns, max_tokens=4)
    turns += [done.choices[0].message, {"role": "user", "content": "and?"}]
    again = client.chat.completions.create(model="gpt-demo", messages=turns, max_tokens=4)
    assert again.usage.prompt_tokens == len("user: Hi\nassistant: user\nuser: and?\nassistant: ")


def test_the_async_client_streams_many_at_once(url: str) -> None:
    async def one(client: AsyncOpenAI, index: int) -> str:
        prompt = f"{index};"
        stream = await client.completions.create(
            model="gpt-demo", prompt=prompt, max_tokens=len(prompt) * 2, stream=True
        )
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def work() -> list[str]:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, index) for index in range(12)))

    assert asyncio.run(work()) == [f"{index};" * 2 for index in range(12)]


def test_the_client_as_it_comes_waits_as_long_as_it_is_told_and_is_served() -> None:
    """Its own two retries, and no other help: refused, it comes again at the hinted time, and is in."""
    statuses = []
    with served(limits=TenantLimits(requests_per_min=120)) as (url, _):
        with httpx.Client(base_url=url) as greedy:
            while greedy.get("/v1/models").status_code == 200:
                pass  # what a minute allows, at once
        hooks = {"response": [lambda answer: statuses.append(answer.status_code)]}
        with OpenAI(base_url=f"{url}/v1", api_key="none", http_client=httpx.Client(event_hooks=hooks)) as client:
            assert client.max_retries == 2
            assert [complete(client, max_tokens=1).choices[0].text for _ in range(2)] == ["a"] * 2
    assert statuses[-3:] == [200, 429, 200]


def test_seeds_make_a_real_model_repeat_itself(tmp_path: Path) -> None:
    with served(tiny_engine(tiny_model(tmp_path / "m"))) as (url, _), openai_client(url) as client:
        texts = [complete(client, "def f(", seed=seed, max_tokens=24).choices[0].text for seed in (1, 1, 2, None, None)]
        assert texts[0] == texts[1]
        assert len({texts[0], *texts[2:]}) == 4
        greedy = {complete(client, "def f(", temperature=0, max_tokens=24).choices[0].text for _ in range(2)}
        assert len(greedy) == 1
