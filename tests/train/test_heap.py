"""Memory that a step has used serves the next one; what nobody needs any more goes back."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PAGES = 64 * 2**20 // os.sysconf("SC_PAGE_SIZE")
# Each in a process of its own: the settings cannot be taken back.
FAULTS_OF_THE_SECOND_BLOCK = """
import resource, sys, threading
from jobs.train import heap
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use(): bytearray(64 * 2**20)
def work():
    use()
    before = faults()
    use()
    print(faults() - before)
if sys.argv[1] == "keep":
    assert heap.keep()
if sys.argv[2] == "main":
    work()
else:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
"""
RESIDENT_AFTER_GIVING_BACK = """
import os, sys
from jobs.train import heap
def resident(): return int(open("/proc/self/statm").read().split()[1])
heap.keep()
heap.KEEP_BYTES = int(sys.argv[1])
block, pin = bytearray(64 * 2**20), bytearray(2**20)
full = resident()
del block
free = heap.give_back()
print(free >= 64 * 2**20, full - resident())
"""


def _run(script: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("thread", ["main", "another"])
def test_a_block_as_large_as_the_one_freed_costs_no_pages(thread: str) -> None:
    assert int(_run(FAULTS_OF_THE_SECOND_BLOCK, "keep", thread)) < PAGES // 100
    assert int(_run(FAULTS_OF_THE_SECOND_BLOCK, "as it is", thread)) > PAGES // 2


def test_much_freed_memory_is_given_back_though_used_memory_lies_behind_it() -> None:
    had_much, pages_given = _run(RESIDENT_AFTER_GIVING_BACK, str(2**20)).split()
    assert had_much == "True"
    assert int(pages_given) > 0.9 * PAGES


def test_little_freed_memory_is_kept() -> None:
    _, pages_given = _run(RESIDENT_AFTER_GIVING_BACK, str(2**30)).split()
    assert int(pages_given) < PAGES // 100
