"""The torch engine: a row's tokens are its own, in any slot, chunking and company."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from jobs.models.load import load_model
from orchestrator.spec.errors import UserError
from serving.engine.calibrate import calibrate
from serving.engine.int8 import Int8Linear
from serving.engine.protocol import BROKEN, DecodeRow, PrefillChunk, Sampling, TokenEngine
from serving.engine.torch_engine import place_model
from serving.policy import StepShape
from tests.serving.worlds import GREEDY, tiny_engine, tiny_model

_PROMPTS = ["def f(x):", "import os\n", "a", "class Very(Long):\n    name = 'b'\n", "1 + 1 = "]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "m")


def sampling(index: int) -> Sampling:
    return GREEDY if index % 2 else Sampling(temperature=0.8, top_p=0.95, seed=index)


def generate_alone(engine: TokenEngine, prompt: str, how: Sampling, count: int, slot: int = 0) -> list[int]:
    tokens = list(prompt.encode())
    answer = [engine.prefill(slot, tokens, start=0, sampling=how)]
    while len(answer) < count:
        row = DecodeRow(slot=slot, token=answer[-1], position=len(tokens) + len(answer) - 1, sampling=how)
        answer += engine.decode([row])
    return answer


def test_greedy_answers_equal_the_model_without_a_cache(folder: Path) -> None:
    model, _ = load_model(folder)
    answer = generate_alone(tiny_engine(folder), _PROMPTS[0], GREEDY, 20)
    tokens = list(_PROMPTS[0].encode())
    for token in answer:
        with torch.inference_mode():
            assert int(model(torch.tensor([tokens]))[0, -1].argmax()) == token
        tokens.append(token)


def test_tokens_are_identical_alone_and_in_random_company(folder: Path) -> None:
    """Rows join, leave, change slots by parking and prefill in chunks; nobody's tokens change."""
    alone = [generate_alone(tiny_engine(folder), prompt, sampling(i), 24) for i, prompt in enumerate(_PROMPTS)]
    draw, engine = random.Random(5), tiny_engine(folder, num_slots=3)
    prompts = [list(prompt.encode()) for prompt in _PROMPTS]
    done, slot_of, parked, out = [0] * 5, {}, {}, [[] for _ in prompts]

    def cached(i: int) -> int:
        return done[i] + max(0, len(out[i]) - 1)

    while any(len(answer) < 24 for answer in out):
        live = [i for i in range(5) if len(out[i]) < 24]
        chosen = draw.sample(live, k=min(len(live), draw.randint(1, 3)))
        for i in [i for i in slot_of if i not in chosen]:
            slot = slot_of.pop(i)
            if len(out[i]) < 24:
                parked[i] = engine.park(slot, cached(i))
        for i in [i for i in chosen if i not in slot_of]:
            slot_of[i] = draw.choice([slot for slot in range(3) if slot not in slot_of.values()])
            if i in parked:
                engine.resume(slot_of[i], parked.pop(i))
        chunks, rows = [], []
        for i in chosen:
            if done[i] < len(prompts[i]):
                size = draw.randint(1, 6)
                chunk, last = prompts[i][done[i] : done[i] + size], done[i] + size >= len(prompts[i])
                how = sampling(i) if last else None
                chunks.append((i, PrefillChunk(slot=slot_of[i], tokens=tuple(chunk), start=done[i], sampling=how)))
                done[i] += len(chunk)
            else:
                rows.append((i, DecodeRow(slot=slot_of[i], token=out[i][-1], position=cached(i), sampling=sampling(i))))
        first, later = engine.step([chunk for _, chunk in chunks], [row for _, row in rows])
        for (i, _), token in zip([*chunks, *rows], [*first, *later], strict=True):
            out[i] += [] if token is None else [token]
    assert out == alone


def test_a_neighbour_that_leaks_would_be_seen(folder: Path) -> None:
    """The check above can fail: a row that reads another's cache answers differently."""
    engine = tiny_engine(folder)
    right = generate_alone(engine, _PROMPTS[0], GREEDY, 12, slot=0)
    generate_alone(engine, _PROMPTS[3], GREEDY, 12, slot=1)
    engine.resume(0, engine.park(1, 9))  # another sequence's keys in the place of this one's
    tokens = _PROMPTS[0].encode()
    wrong = engine.decode([DecodeRow(slot=0, token=right[0], position=len(tokens), sampling=GREEDY)])
    assert wrong != [right[1]]


@pytest.mark.parametrize("parked", [False, True])
def test_scores_that_were_no_numbers_leave_nothing_behind_in_their_slots(folder: Path, parked: bool) -> None:
    """Rows of different lengths are read together, the shorter ones padded with what was in their slots before."""
    broken, _ = load_model(folder)
    with torch.no_grad():
        broken.norm.weight.fill_(float("nan"))
        broken.blocks[0].attention_norm.weight.fill_(float("nan"))
    engine = tiny_engine(folder)
    engine.offer("bad", broken.eval())
    for slot in range(4):
        chunk = PrefillChunk(slot=slot, tokens=(1,) * 60, start=0, sampling=GREEDY, version="bad")
        assert engine.step([chunk], []) == ([BROKEN], [])
        engine.free(slot)
    prompts = [b"import", b"return ", b"def f(x)", b"import this"]
    tokens = []
    for slot, prompt in enumerate(prompts):
        tokens.append(engine.prefill(slot, list(prompt), start=0, sampling=GREEDY))
        if parked:
            engine.resume(slot, engine.park(slot, len(prompt)))
    rows = [DecodeRow(slot=i, token=tokens[i] or 0, position=len(prompts[i]), sampling=GREEDY) for i in range(4)]
    expected = [generate_alone(tiny_engine(folder), prompt.decode(), GREEDY, 2) for prompt in prompts]
    assert [[first, then] for first, then in zip(tokens, engine.decode(rows), strict=True)] == expected


def test_seeds_repeat_and_differ(folder: Path) -> None:
    engine = tiny_engine(folder)
    once, again = (generate_alone(engine, "x = ", Sampling(seed=1), 16) for _ in range(2))
    assert once == again != generate_alone(engine, "x = ", Sampling(seed=2), 16)


def test_calibration_gives_times_and_leaves_the_engine_usable(folder: Path) -> None:
    engine = tiny_engine(folder)
    before = generate_alone(engine, "abc", GREEDY, 8)
    model = calibrate(engine, chunk_tokens=16, budget_s=0.0)
    assert 0 < model.predict_s(StepShape(1, 0, 16)) < 5
    assert generate_alone(engine, "abc", GREEDY, 8) == before


def test_a_model_without_a_cache_and_an_unknown_precision_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="KV-cache forward"):
        place_model(torch.nn.Linear(2, 2), "fp32", torch.device("cpu"))
    with pytest.raises(UserError, match="fp8 is not served"):
        place_model(load_model(folder)[0], "fp8", torch.device("cpu"))
    with pytest.raises(UserError, match="int8 is computed on CPUs"):
        place_model(load_model(folder)[0], "int8", torch.device("meta"))


def test_bf16_weights_answer_too(folder: Path) -> None:
    placed = place_model(load_model(folder)[0], "bf16", torch.device("cpu"))
    cache = placed.new_cache(1, 32)
    assert placed.prefill(torch.tensor([1, 2, 3]), cache, 0, 0).shape == (256,)


def test_int8_answers_are_close_to_fp32_and_do_not_depend_on_the_company(folder: Path) -> None:
    plain, small = (
        place_model(load_model(folder)[0], precision, torch.device("cpu")) for precision in ("fp32", "int8")
    )
    tokens_BT = torch.randint(0, 256, (6, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        far = (small(tokens_BT) - plain(tokens_BT)).abs().max() / plain(tokens_BT).abs().max()
    assert 0 < far < 0.05
    layer = small.blocks[0].mlp.widen
    x_RI = torch.randn(33, layer.weight_OI.shape[1], generator=torch.Generator().manual_seed(2))
    x_RI[5] *= 1000  # a loud neighbour, which one scale for all rows would hear
    together = layer(x_RI)
    assert all(torch.equal(together[row], layer(x_RI[row : row + 1])[0]) for row in range(33))


def test_int8_keeps_a_bias() -> None:
    linear = torch.nn.Linear(8, 3)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(Int8Linear(linear)(x), linear(x), atol=0.05, rtol=0.05)
