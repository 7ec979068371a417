"""Small valid documents, and ways to spoil them."""

from __future__ import annotations

import datetime as dt

from orchestrator.spec import check_text

JOB = """\
apiVersion: tideline/v1
kind: TrainJob
metadata: {name: j}
spec:
  workers: {min: 1, max: 2}
  task: my.code:task
  data: {dataset: d@1}
  batch: {global_batch_size: 8, micro_batch_size: 2}
  steps: 10
"""

CLUSTER = """\
apiVersion: tideline/v1
kind: Cluster
metadata: {name: c}
spec:
  pools: [{name: p, device: A100, market: spot, price: "1.10", capacity: {source: ray}, count: 8}]
  queues: [{name: q, quotas: [{pool: p, nominal: 8}]}]
  tenants: [{name: a}, {name: b}]
  windows: [{name: night, start: "22:00", end: "06:00", timezone: Europe/Berlin}]
"""

STUDY = """\
apiVersion: tideline/v1
kind: Study
metadata: {name: s}
spec:
  template:
    workers: {min: 1, max: 2}
    task: my.code:task
    args: {layers: 2, norm: pre}
    data: {dataset: d@1}
    batch: {global_batch_size: 8, micro_batch_size: 2}
    steps: 300
  space: {optimizer.lr: {type: loguniform, min: 1e-4, max: 1e-2}}
  searcher: {name: tpe}
  scheduler: {name: asha}
  metric: loss
  mode: min
  budget: {trials: 4}
"""

ENDPOINT = """\
apiVersion: tideline/v1
kind: Endpoint
metadata: {name: e}
spec:
  model: gpt@1
  tiers: {interactive: {slo: {latency: 2s}}, batch: {}}
"""

MERGE = """\
apiVersion: tideline/v1
kind: Merge
metadata: {name: m}
spec:
  models: [{model: a@1}, {model: b@1}]
  method: {name: linear}
  output: {model: c}
"""

SCENARIO = """\
apiVersion: tideline/v1
kind: Scenario
metadata: {name: x}
spec:
  capacity: {trace: capacity.csv, prices: prices.csv}
  job: {work: 10h, workers: {min: 1, max: 2}}
"""

ALL = {"TrainJob": JOB, "Cluster": CLUSTER, "Study": STUDY, "Endpoint": ENDPOINT, "Merge": MERGE, "Scenario": SCENARIO}


def spoil(document: str, *lines: str) -> str:
    """The document with these lines: each replaces the line with the same key and indent, or follows the one before."""
    kept = document.splitlines()
    last = len(kept) - 1
    for line in lines:
        key = line.split(":")[0] + ":"
        at = next((index for index, old in enumerate(kept) if old.startswith(key)), None)
        last = last + 1 if at is None else at
        kept[last : last + (at is not None)] = [line]
    return "\n".join(kept) + "\n"


def told(text: str, *, now: dt.datetime | None = None) -> list[str]:
    """Every problem of a text, as people see it; the file is called f."""
    return [str(problem) for problem in check_text(text, "f", now=now).problems]
