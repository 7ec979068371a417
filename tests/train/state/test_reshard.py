"""N ranks save, M load: every element arrives where it belongs, however the tensors were cut."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as load_safetensors

from jobs.train.state import (
    BLOCK_BYTES,
    FP32,
    CorruptStateError,
    MemorySource,
    PartLayout,
    encode_part,
    hash_blocks,
    load_into,
    part_nbytes,
)
from jobs.train.state.hashing import BlockHasher
from tests.train.state.fakes import (
    gathered,
    header_of,
    random_cuts,
    random_whole,
    same,
    save_in_memory,
    views,
    zero3_cuts,
    zero12_cuts,
)

shapes = st.lists(st.lists(st.integers(1, 9), min_size=0, max_size=3), min_size=1, max_size=7).map(
    lambda found: {f"layer.{i}": tuple(shape) for i, shape in enumerate(found)}
)


@st.composite
def wholes(draw):
    found = draw(shapes)
    names = list(found)
    frozen = names[1 : draw(st.integers(1, 2))]
    buffers = names[2 : 2 + draw(st.integers(0, 1))]
    return random_whole(found, draw(st.integers(0, 99)), frozen, buffers)


@st.composite
def cuts(draw, whole):
    world_size = draw(st.integers(1, 12))
    way = draw(st.sampled_from(["zero12", "zero12-groups", "zero3", "random"]))
    match way:
        case "zero12":
            return zero12_cuts(whole, world_size, align=draw(st.sampled_from([1, 2, 8])))
        case "zero12-groups":
            return zero12_cuts(whole, world_size, groups=2)
        case "zero3":
            return zero3_cuts(whole, world_size)
        case _:
            return random_cuts(whole, world_size, draw(st.integers(0, 99)))


@settings(deadline=None, max_examples=150)
@given(data=st.data(), whole=wholes())
def test_any_cut_loads_from_any_other(data, whole):
    manifest, source = save_in_memory(views(whole, data.draw(cuts(whole))))
    restored = views(whole, data.draw(cuts(whole)), filled=False, zero_stage=3)
    for view in restored:
        load_into(view, manifest, source)
    assert same(gathered(whole, restored), whole.flat)


def test_two_hundred_ranks_to_a_hundred_and_thirty_four():
    whole = random_whole({f"w{i}": (37, 11 + i) for i in range(20)} | {"tiny": (3,)}, 0)
    manifest, source = save_in_memory(views(whole, zero3_cuts(whole, 200)))
    restored = views(whole, zero12_cuts(whole, 134), filled=False)
    for view in restored:
        load_into(view, manifest, source)
    assert same(gathered(whole, restored), whole.flat)


def test_a_rank_reads_only_the_blocks_it_needs():
    whole = random_whole({"big": (6 * BLOCK_BYTES // 4,)}, 0)
    manifest, source = save_in_memory(views(whole, zero12_cuts(whole, 2)))
    restored = views(whole, zero12_cuts(whole, 3), filled=False)
    reports = [load_into(view, manifest, source) for view in restored]
    for report in reports:
        # three kinds, each cut at two places that need not be block borders
        assert report.needed_bytes <= report.read_bytes <= report.needed_bytes + 3 * 2 * BLOCK_BYTES
    assert sum(r.needed_bytes for r in reports) == 3 * 6 * BLOCK_BYTES


def test_a_part_is_a_safetensors_file_that_others_can_read():
    whole = random_whole({"a": (5, 3), "b": (7,), "n": (4,)}, 0, buffers=("n",))
    view = views(whole, zero3_cuts(whole, 2))[0]
    content = b"".join(bytes(chunk) for chunk in encode_part(PartLayout.of(view)))
    assert len(content) == part_nbytes(view)
    read = load_safetensors(content)
    assert torch.equal(read["exp_avg/a[0:8]"], whole.flat["exp_avg", "a"][:8])
    assert torch.equal(read["buffer/n[0:4]"], whole.flat["buffer", "n"])
    assert len(read) == len(view.owned) == len(header_of(memoryview(content)))


def test_a_rank_that_owns_nothing_still_has_a_part():
    whole = random_whole({"a": (2,)}, 0)
    ranks = views(whole, zero3_cuts(whole, 5))
    assert ranks[4].owned == ()
    manifest, source = save_in_memory(ranks)
    restored = views(whole, zero3_cuts(whole, 1), filled=False)
    load_into(restored[0], manifest, source)
    assert same(gathered(whole, restored), whole.flat)


def test_neighbours_in_memory_become_one_copy():
    whole = random_whole({f"w{i}": (50,) for i in range(100)}, 0)
    layout = PartLayout.of(views(whole, zero12_cuts(whole, 2))[1])
    assert len(layout.runs) == 3
    assert [group.kinds for group in layout.groups] == [("fp32", "exp_avg", "exp_avg_sq")]


@pytest.mark.parametrize("saved_as", [torch.bfloat16, torch.float64])
def test_another_element_type_is_converted(saved_as):
    whole = random_whole({"a": (5, 3), "b": (9,)}, 0)
    narrow = {key: full.to(saved_as) for key, full in whole.flat.items()}
    ranks = views(whole, zero12_cuts(whole, 3))
    for view in ranks:
        pieces = tuple(
            type(p)(p.name, p.kind, p.start, p.stop, narrow[p.kind, p.name][p.start : p.stop]) for p in view.owned
        )
        object.__setattr__(view, "owned", pieces)
    manifest, source = save_in_memory(ranks)
    restored = views(whole, zero3_cuts(whole, 2), filled=False)
    for view in restored:
        load_into(view, manifest, source)
    assert same(gathered(whole, restored), {key: full.float() for key, full in narrow.items()})


def test_scalars_are_set_and_weights_published_after_the_copy():
    whole = random_whole({"a": (4,)}, 0)
    manifest, source = save_in_memory(views(whole, zero12_cuts(whole, 2)))
    restored = views(whole, zero12_cuts(whole, 1), filled=False)[0]
    seen = []
    object.__setattr__(restored, "set_scalars", lambda scalars: seen.append(dict(scalars)))
    object.__setattr__(restored, "publish", lambda: seen.append(float(restored.wanted[0].tensor[0])))
    load_into(restored, manifest, source)
    assert seen == [{"step": 7}, float(whole.flat[FP32, "a"][0])]


def test_a_state_without_a_moment_that_the_optimizer_needs_is_refused():
    whole = random_whole({"a": (4,)}, 0)
    ranks = views(whole, zero12_cuts(whole, 1))
    object.__setattr__(ranks[0], "owned", tuple(p for p in ranks[0].owned if p.kind != "exp_avg_sq"))
    manifest, source = save_in_memory(ranks)
    with pytest.raises(CorruptStateError, match="has no 'exp_avg_sq'"):
        load_into(views(whole, zero12_cuts(whole, 1), filled=False)[0], manifest, source)


@pytest.mark.parametrize("change", ["missing", "twice"])
def test_a_missing_or_doubled_range_is_refused(change):
    whole = random_whole({"a": (4,), "b": (6,)}, 0)
    cut = [[("a", 0, 4), ("b", 0, 3)], [("b", 4, 6) if change == "missing" else ("b", 2, 6)]]
    manifest, source = save_in_memory(views(whole, cut))
    with pytest.raises(CorruptStateError, match=r"lacks elements of 'fp32' of 'b'|twice"):
        load_into(views(whole, zero12_cuts(whole, 1), filled=False)[0], manifest, source)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), size=st.integers(0, 3 * BLOCK_BYTES))
def test_hashes_do_not_depend_on_how_the_bytes_arrive(data, size):
    content = memoryview(np.random.default_rng(size).bytes(size))
    hasher = BlockHasher()
    edges = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=6))})
    for start, stop in itertools.pairwise(edges):
        hasher.update(content[start:stop])
    assert hasher.hexdigests() == hash_blocks(content)


def test_loading_warns_of_nothing_for_read_only_memory():
    whole = random_whole({"a": (4,)}, 0)
    manifest, source = save_in_memory(views(whole, zero12_cuts(whole, 1)))
    copies = {part.file: memoryview(bytes(source.read(part.file, 0, part.nbytes))) for part in manifest.parts}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_into(views(whole, zero12_cuts(whole, 1), filled=False)[0], manifest, MemorySource(copies))
