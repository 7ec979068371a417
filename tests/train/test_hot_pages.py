"""A child of a process says which of the common pages it wrote to; another has these copied before it writes."""

from __future__ import annotations

import array
import json
import subprocess
import sys
from typing import Any

import pytest

from jobs.train.hot_pages import num_pages

SCRIPT = """
import array, ctypes, json, mmap, os, resource, sys
from jobs.train.hot_pages import copy_now, shared_mappings, written_since_fork
PAGE = mmap.PAGESIZE
memory = mmap.mmap(-1, 256 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[:] = b"p" * len(memory)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory)) // PAGE
WRITTEN = (3, 4, 5, *range(40, 240))
mappings = shared_mappings()
def in_a_child(work):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, json.dumps(work()).encode())
        os._exit(0)
    os.close(writer)
    return json.loads(os.read(reader, 1 << 20))
def learn():
    for page in WRITTEN:
        memory[page * PAGE] = ord("c")
    return list(written_since_fork([(start, start + 256)]))
def write(learned):
    if learned is not None:
        assert copy_now(array.array("Q", learned))
    assert memory[:] == b"p" * len(memory)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for page in WRITTEN:
        memory[page * PAGE] = ord("d")
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
inside = any(first <= start and start + 256 <= last for first, last in mappings)
learned = in_a_child(learn)
print(json.dumps({
    "inside": inside, "learned": [learned[0] - start, learned[1], learned[2] - start, *learned[3:]],
    "faults": in_a_child(lambda: write(learned)), "faults_without": in_a_child(lambda: write(None)),
    "parent": memory[:] == b"p" * len(memory),
}))
"""


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_child_knows_which_pages_it_wrote_to(seen: dict[str, Any]) -> None:
    assert seen["inside"]
    assert seen["learned"] == [3, 3, 40, 200]


def test_pages_that_were_copied_ahead_cost_no_fault_and_change_nobody_elses(seen: dict[str, Any]) -> None:
    assert seen["faults_without"] >= 203
    assert seen["faults"] < 20
    assert seen["parent"]


def test_pages_are_counted_over_all_ranges() -> None:
    assert num_pages(array.array("Q", [10, 3, 20, 4])) == 7
