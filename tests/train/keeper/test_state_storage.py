"""A node's agent writes a whole checkpoint without torch, which it would carry (hundreds of MB) for the run's life."""

from __future__ import annotations

import json
import subprocess
import sys

from jobs.train.state import FileStorage, load_into, load_latest_good, read_manifest
from tests.train.state.fakes import gathered, random_whole, same, save_in_memory, views, zero3_cuts

FLUSH = """
import json, sys
from pathlib import Path
import orchestrator.adapters.ray_train.node_agent
from orchestrator.adapters.ray_train.keeper_host import _open_storage
storage = _open_storage(Path("stored").absolute().as_uri())
for file, held in json.loads(Path("parts.json").read_text()).items():
    data = Path(held).read_bytes()
    storage.write_part(file, [memoryview(data)[:100], memoryview(data)[100:]], len(data))
storage.commit(Path("manifest.json").read_bytes(), 2)
print(json.dumps(sorted({"torch", "numpy", "pandas", "deepspeed"} & set(sys.modules))))
"""


def test_a_flush_brings_no_torch_and_what_it_wrote_loads(tmp_path):
    whole = random_whole({"a": (37, 5), "b": (11,)}, 3)
    manifest, memory = save_in_memory(views(whole, zero3_cuts(whole, 3)))
    held = {part.file: f"part-{part.rank}" for part in manifest.parts}
    for part in manifest.parts:
        (tmp_path / held[part.file]).write_bytes(memory.read(part.file, 0, part.nbytes))
    (tmp_path / "parts.json").write_text(json.dumps(held))
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())

    done = subprocess.run([sys.executable, "-c", FLUSH], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []
    storage = FileStorage(tmp_path / "stored")
    assert read_manifest(storage, "run", 10) == manifest
    restored = views(whole, zero3_cuts(whole, 2), filled=False, zero_stage=3)
    for view in restored:
        load_into(view, manifest, storage)
    assert same(gathered(whole, restored), whole.flat)
    assert load_latest_good(restored[0], storage, "run") is not None
