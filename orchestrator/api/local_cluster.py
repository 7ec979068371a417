"""This machine as a Cluster: what a server begins with when nobody has applied one."""

from __future__ import annotations

import shutil
import subprocess

from orchestrator.spec import Cluster, load_text

_TEXT = """
apiVersion: tideline/v1
kind: Cluster
metadata: {name: local, description: This machine}
spec:
  ray: {address: local}
  pools:
    - {name: cores, device: CPU core, resource: CPU, market: on_demand, price: "0", capacity: {source: ray}}
"""
_GPUS = """
    - {name: gpus, device: GPU, resource: GPU, market: on_demand, price: "0", capacity: {source: ray}}
"""


def this_machine() -> Cluster:
    """One pool of cores, and one of GPUs where there are some."""
    (found,) = load_text(_TEXT + (_GPUS if _num_gpus() else ""), "this machine")
    assert isinstance(found, Cluster), "the text is one"
    return found


def _num_gpus() -> int:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    try:
        found = subprocess.run([tool, "-L"], capture_output=True, timeout=10, check=True, text=True)
    except (subprocess.SubprocessError, OSError):
        return 0
    return sum(line.startswith("GPU ") for line in found.stdout.splitlines())
