"""The line between a trial's rank 0 and whoever runs the trial on its node: reports up, answers down.

A Unix socket with one JSON object a line. A rank that is cut off leaves: its state has been saved before it reported.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass

# A rank finds its line and its trial's facts here.
VARIABLE = "TIDE_TRIAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFacts:
    """What a rank is told beside its job: when to report, to whom, and on how many samples it is measured."""

    socket_path: str
    reports: tuple[int, ...]
    evaluation_samples: int

    def to_text(self) -> str:
        return json.dumps(
            {"socket": self.socket_path, "reports": self.reports, "evaluation_samples": self.evaluation_samples}
        )

    @classmethod
    def from_text(cls, text: str) -> TrialFacts:
        """Raises: ValueError or KeyError for anything else than `to_text` makes."""
        saved = json.loads(text)
        return cls(
            socket_path=saved["socket"],
            reports=tuple(saved["reports"]),
            evaluation_samples=saved["evaluation_samples"],
        )

    @classmethod
    def from_environment(cls) -> TrialFacts:
        return cls.from_text(os.environ[VARIABLE])


class Line:
    """Rank 0's end."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._file = self._socket.makefile("rwb")

    def report(self, step: int, metrics: dict[str, float]) -> bool:
        """Say how the trial stands and wait for the answer: whether it goes on."""
        try:
            self._file.write(json.dumps({"step": step, "metrics": metrics}).encode() + b"\n")
            self._file.flush()
            answer = self._file.readline()
        except OSError:
            return False
        return bool(answer) and bool(json.loads(answer)["go_on"])

    def fileno(self) -> int:
        """Readable when an answer is there."""
        return self._socket.fileno()

    def close(self) -> None:
        self._file.close()
        self._socket.close()
