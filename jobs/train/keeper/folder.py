"""A keeper's own folder in shared memory: private to the user, held by one keeper at a time."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from orchestrator.spec.errors import ExitCode, UserError

_LOCK_NAME = "keeper.lock"
_SHM = Path("/dev/shm")  # noqa: S108  shared memory is what this is about; the folder below is private and checked


def default_folder(node: str) -> Path:
    """`/dev/shm/tide-<uid>-<node>`."""
    return _SHM / f"tide-{os.getuid()}-{node}"


class KeeperFolder:
    """The folder, created if need be, locked until `close` or the death of this process."""

    def __init__(self, path: Path) -> None:
        """Raises: UserError (conflict) if another keeper has it, (forbidden) if it is not this user's alone."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(path)
        self.path = path
        self._lock_fd = os.open(path / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock_fd)
            raise UserError(
                "another keeper serves this folder",
                code=ExitCode.CONFLICT,
                where=str(path),
                next_step="One keeper per node: end the other one first.",
            ) from None

    def close(self) -> None:
        """Let another keeper have it. What lies in it stays."""
        os.close(self._lock_fd)

    def remove(self) -> None:
        """Delete the folder with all that is in it. Call instead of `close` when the node is given back."""
        for path in self.path.iterdir():
            path.unlink()
        self.path.rmdir()
        self.close()


def _check_private(path: Path) -> None:
    """Shared memory is open to all users: somebody may have put a folder, or a link, of this name there before us."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UserError(
            f"not a folder of user {os.getuid()} alone (mode {stat.S_IMODE(found.st_mode):o}, owner {found.st_uid})",
            code=ExitCode.FORBIDDEN,
            where=str(path),
            next_step="Remove it, or name another folder.",
        )
