"""Embeddings: the mean of the prompt's last hidden states, whatever else the engine does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx
import openai
import pytest
import torch
from openai import OpenAI

from jobs.models.load import load_model
from serving.engine.echo import EchoEngine
from serving.engine.generation import EngineFailedError
from serving.engine.torch_engine import CachedModel, load_engine, load_placed
from serving.policy import Tier
from tests.serving.http.server import openai_client, served
from tests.serving.http.test_lifecycle import Pace, hang_up, metric, until
from tests.serving.worlds import generation, read_all, running, tiny_engine, tiny_model


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(EchoEngine(max_context=64)) as (url, _):
        yield url


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with openai_client(url) as client:
        yield client


def test_vectors_come_in_the_order_of_the_inputs(client: OpenAI) -> None:
    """Both ways of writing numbers: the client asks for base64 by default."""
    for options in ({}, {"encoding_format": "float"}):
        made = client.embeddings.create(model="gpt-demo", input=["aab", "b", "a" * 60], **options)  # type: ignore[arg-type]
        assert [each.index for each in made.data] == [0, 1, 2]
        assert [each.embedding[ord("a")] for each in made.data] == [pytest.approx(2 / 3), 0.0, 1.0]
        assert (made.model, made.usage.prompt_tokens, made.usage.total_tokens) == ("gpt-demo", 64, 64)


def test_inputs_may_be_text_or_tokens(client: OpenAI) -> None:
    for given in ("ab", ["ab"], [97, 98], [[97, 98]]):
        made = client.embeddings.create(model="gpt-demo", input=given, encoding_format="float")  # type: ignore[arg-type]
        assert [each.embedding[97] for each in made.data] == [0.5]


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"input": ""}, "input", "there must be something"),
        ({"input": []}, "input", "something to embed"),
        ({"input": [[]]}, "input", "must be text, a list of texts"),
        ({"input": [["a"]]}, "input", "must be text, a list of texts"),
        ({"input": ["a", 1]}, "input", "must be text"),
        ({"input": ["a", ""]}, "input", "there must be something"),
        ({"input": [256]}, "input", "tokens must be 0..255"),
        ({"input": "x" * 65}, "input", "context is 64 tokens; an input has 65"),
        ({"input": ["a"] * 257}, "input", "257 inputs in one request; at most 256"),
        ({"dimensions": 8}, "dimensions", "one size"),
        ({"encoding_format": "hex"}, "encoding_format", "'float' or 'base64'"),
    ],
)
def test_a_wrong_field_is_named(url: str, change: dict[str, object], param: str, message: str) -> None:
    response = httpx.post(f"{url}/v1/embeddings", json={"model": "gpt-demo", "input": "a", **change})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert message in error["message"]


def test_an_unknown_model_is_a_404(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="other", input="a")


def test_a_clients_own_timeout_is_a_408_for_all_vectors() -> None:
    pace = Pace()
    with served(EchoEngine(before_step=pace)) as (url, _):
        response = httpx.post(f"{url}/v1/embeddings", json={"model": "gpt-demo", "input": ["a", "b"]},
                              headers={"x-request-timeout-seconds": "0.05"})  # fmt: skip
        pace.running.set()
        assert (response.status_code, response.headers["x-should-retry"]) == (408, "false")


def test_a_client_that_hangs_up_gives_all_its_slots_back() -> None:
    pace = Pace()
    with served(EchoEngine(num_slots=2, before_step=pace)) as (url, replica):
        asked = {"model": "gpt-demo", "input": ["abc" * 50] * 5}
        hang_up(url, asked, when=lambda: pace.steps > 0, path="/v1/embeddings")
        # The engine stands still until it is noticed: some of five short prompts could be done before.
        until(lambda: metric(url, "tide_serving_requests_total", outcome="disconnected") == 5)
        pace.running.set()
        until(lambda: replica.stats().rows[Tier.INTERACTIVE] == (0, 0))


def test_a_vector_is_the_mean_hidden_state_however_the_prompt_is_cut(tmp_path: Path) -> None:
    """Chunks of 8 tokens beside other rows, against one plain forward pass."""
    folder = tiny_model(tmp_path / "m")
    prompt = "def fibonacci(n): return n"

    async def embed() -> tuple[float, ...]:
        async with running(tiny_engine(folder)) as replica:
            others = [replica.submit(generation(str(i), tier=list(Tier)[i % 3], max_tokens=30)) for i in range(5)]
            asked = generation("e", prompt, max_tokens=1, embed=True)
            text, finished = await read_all(replica.submit(asked))
            await asyncio.gather(*(read_all(each) for each in others))
            assert (text, finished.num_tokens) == ("", 0)
            assert finished.embedding is not None
            return finished.embedding

    model, _ = load_model(folder)
    model.eval()
    seen: list[torch.Tensor] = []
    model.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        model(torch.tensor([list(prompt.encode())]))
    torch.testing.assert_close(torch.tensor(asyncio.run(embed())), seen[-1][0].mean(dim=0), rtol=1e-4, atol=1e-5)


def test_a_canarys_vector_is_the_canarys_also_in_int8(tmp_path: Path) -> None:
    stable, canary = (tiny_model(tmp_path / str(seed), seed) for seed in range(2))
    tokens = list(b"def f(x):")
    for precision in ("fp32", "int8"):
        engine, alone = (
            load_engine(folder, num_slots=2, max_context=None, precision=precision) for folder in (stable, canary)
        )
        engine.offer("m@2", cast(CachedModel, load_placed(canary, precision)[0]))
        first = engine.embed(0, tokens[:4], start=0, version="m@2")
        rest = engine.embed(0, tokens[4:], start=4, version="m@2")
        whole = alone.embed(0, tokens, start=0)
        assert [a + b for a, b in zip(first, rest, strict=True)] == pytest.approx(whole, rel=1e-4, abs=1e-4)
        assert engine.embed(1, tokens, start=0) != pytest.approx(whole, rel=1e-2)


def test_a_model_without_numbers_gives_an_error_and_not_a_vector(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(tmp_path / "m"))
    broken, _ = load_model(tmp_path / "m")
    with torch.no_grad():
        broken.eval().norm.weight.fill_(float("nan"))
    engine.serve(cast(CachedModel, broken))

    async def embed() -> None:
        async with running(engine) as replica:
            with pytest.raises(EngineFailedError, match="no finite scores"):
                await read_all(replica.submit(generation("e", max_tokens=1, embed=True)))
            assert replica.failure is None

    asyncio.run(embed())


def test_an_engine_that_makes_no_vectors_says_so() -> None:
    with served() as (url, replica):
        replica.embeds = False
        refused = httpx.post(f"{url}/v1/embeddings", json={"model": "gpt-demo", "input": "a"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported")
