"""The fork server whose children are ranks of trials."""

from __future__ import annotations

from jobs.study.rank import main as become_rank
from jobs.train import forkserver_stem

if __name__ == "__main__":
    forkserver_stem.main(become_rank)
