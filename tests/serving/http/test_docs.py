"""The Python of docs/serving.md, run as it stands there, against a running endpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from serving.engine.echo import EchoEngine
from tests.serving.http.server import served

_PAGE = Path(__file__).parents[3] / "docs/serving.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", _PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_every_example_runs_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calling, batches = blocks()
    row = {"custom_id": "r1", "method": "POST", "url": "/v1/completions", "body": {"model": "gpt-demo", "prompt": "a"}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with served(EchoEngine(max_context=512), folder=tmp_path) as (url, _):
        exec(calling.replace("http://127.0.0.1:8000", url).replace("demo-gpt", "gpt-demo"), names)
        exec(batches.replace("time.sleep(5)", "time.sleep(0.01)"), names)
        names["client"].close()
    (answer,) = [json.loads(line) for line in names["answers"].splitlines()]
    assert (names["batch"].status, answer["custom_id"], answer["response"]["status_code"]) == ("completed", "r1", 200)
