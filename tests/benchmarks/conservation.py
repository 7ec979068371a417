"""A million random steps against the laws of conservation: `python -m tests.benchmarks.conservation [--steps N]`.

The steps and laws are those of tests/ledger/machine.py. Every history has its own seed; one that breaks a law is named
and ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from orchestrator.ledger.database import Database, open_database
from tests.benchmarks.harness import print_result, read_options, say
from tests.ledger.machine import Machine, template
from tests.ledger.world import sqlite

_HISTORY = 100
_BASE = "/dev/shm" if Path("/dev/shm").is_dir() else None

# Step -> how often, relative to the others, and what it draws.
_STEPS = {
    "submit": (15, lambda draw: (*(draw.randrange(12) for _ in range(4)), draw.randint(1, 90), True)),
    "tick": (36, lambda draw: (draw.choice([0.5, 1.0, 3.0, 7.0, draw.random() * 20]),)),
    "cancel": (5, lambda draw: (draw.randrange(12),)),
    "pause": (5, lambda draw: (draw.randrange(12),)),
    "resume": (5, lambda draw: (draw.randrange(12),)),
    "pin": (5, lambda draw: (draw.randrange(12), draw.choice([None, 1, 2, 4, 8]))),
    "node": (6, lambda draw: (draw.randrange(12), draw.randrange(4))),
    "kill": (6, lambda draw: (draw.randrange(12), draw.random() < 0.5)),
    "sight": (4, lambda draw: (draw.random() < 0.5,)),
    "jump": (2, lambda draw: (draw.choice([-3600.0, -5.0, 5.0, 3600.0]),)),
    "restart": (4, lambda draw: ()),
    "crash": (7, lambda draw: (draw.randrange(12),)),
}


@functools.cache
def home(ready: Path) -> tuple[Path, Database]:
    """This process's own folder and the database in it, for all its histories, one after the other."""
    folder = ready.parent / str(os.getpid())
    folder.mkdir()
    return folder, open_database(sqlite(folder))


def history(seed: int, ready: Path) -> tuple[int, Counter[str], str]:
    """One history of a hundred steps and its end; the seed, what was done, and the law that was broken."""
    draw, done = random.Random(seed), Counter[str]()
    names, weights = list(_STEPS), [weight for weight, _ in _STEPS.values()]
    folder, database = home(ready)
    machine = Machine(folder, ready, database)
    try:
        for name in draw.choices(names, weights, k=_HISTORY):
            getattr(machine, name)(*_STEPS[name][1](draw))
            done[name] += 1
            machine.check()
        machine.finish()
    except AssertionError as error:
        return seed, done, f"{type(error).__name__}: {error}"
    finally:
        database.close()
    return seed, done, ""


def main() -> int:
    """Run histories on all cores but none more than there are."""
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--steps", type=int, default=1_000_000)
    extra.add_argument("--first-seed", type=int, default=0)
    extra.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = read_options(__doc__ or "", extra=extra)
    steps = 2_000 if options.quick else options.rest.steps
    seeds = range(options.rest.first_seed, options.rest.first_seed + -(-steps // _HISTORY))
    done, broken, began_s = Counter[str](), {}, time.perf_counter()
    with tempfile.TemporaryDirectory(dir=_BASE) as folder, ProcessPoolExecutor(options.rest.processes) as pool:
        ready = template(Path(folder))
        for at, (seed, steps_done, law) in enumerate(pool.map(partial(history, ready=ready), seeds, chunksize=4)):
            done += steps_done
            if law:
                broken[seed] = law
                say(f"seed {seed}: {law}")
            if at % 100 == 99:
                say(f"{done.total()} steps, {len(broken)} laws broken, {time.perf_counter() - began_s:.0f} s")
    result = {
        "benchmark": "conservation",
        "steps": done.total(),
        "histories": len(seeds),
        "first_seed": options.rest.first_seed,
        "broken": broken,
        "by_step": dict(sorted(done.items())),
        "wall_s": round(time.perf_counter() - began_s, 1),
    }
    print_result(result, quick=options.quick)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
