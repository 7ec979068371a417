"""What the launcher refuses before it starts anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.train.forkserver import ForkServer
from jobs.train.starters import StartError


def test_a_folder_that_others_may_enter_is_refused(short_folder: Path) -> None:
    short_folder.chmod(0o755)
    with pytest.raises(StartError, match="0700"):
        ForkServer(short_folder).start()


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="107 bytes"):
        ForkServer(tmp_path / ("x" * 120)).start()


def test_a_missing_interpreter_is_a_start_error(short_folder: Path) -> None:
    server = ForkServer(short_folder / "stem", python="/no-such-python")
    with pytest.raises(StartError, match="no-such-python"):
        server.start()
    server.close()
