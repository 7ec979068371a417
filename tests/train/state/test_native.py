"""DeepSpeed's own files, where they are wrong: nothing in them runs, and the file that is at fault is named.

That sound ones load bit for bit at other sizes is held by test_deepspeed_shards.py, with real DeepSpeed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from jobs.train.state import CorruptStateError, StateError
from jobs.train.state.native import read_native
from jobs.train.state.pickles import load_pickled

OPTIMIZER_FILE = "zero_pp_rank_{}_mp_rank_{:02d}_optim_states.pt"


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_foreign_classes_are_refused_by_name_and_never_run(tmp_path):
    victim = tmp_path / "victim"
    torch.save({"client": Bomb(victim)}, tmp_path / "state.pt")
    with pytest.raises(StateError, match=r"pathlib\.Path") as caught:
        load_pickled(tmp_path / "state.pt")
    assert not isinstance(caught.value, CorruptStateError)
    assert not victim.exists()
    torch.load(tmp_path / "state.pt", weights_only=False)
    assert victim.exists()  # an unrestricted load would have run it


class LooksUp:
    """Written as members of enumerations are by early versions of Python 3.11."""

    def __init__(self, of: object, name: str) -> None:
        self.of, self.name = of, name

    def __reduce__(self):
        return (getattr, (self.of, self.name))


def test_members_of_enumerations_are_looked_up_and_nothing_else_is(tmp_path):
    torch.save({"stage": LooksUp(ZeroStageEnum, "weights")}, tmp_path / "state.pt")
    assert load_pickled(tmp_path / "state.pt")["stage"] is ZeroStageEnum.weights
    for of, name in ((ZeroStageEnum, "__init__"), (fragment_address, "__init__")):
        torch.save({"stage": LooksUp(of, name)}, tmp_path / "state.pt")
        with pytest.raises(CorruptStateError, match=f"looks up '{name}'"):
            load_pickled(tmp_path / "state.pt")


def test_a_truncated_file_is_named(tmp_path):
    torch.save({"a": torch.ones(1000)}, tmp_path / "state.pt")
    content = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptStateError) as caught:
        load_pickled(tmp_path / "state.pt")
    assert caught.value.where == str(tmp_path / "state.pt")


@pytest.mark.parametrize("ranks", [[], [1], [0, 2]])
def test_missing_ranks_are_named(tmp_path, ranks):
    for rank in ranks:
        (tmp_path / OPTIMIZER_FILE.format(rank, 0)).touch()
    with pytest.raises(CorruptStateError, match="optimizer files of ranks"):
        read_native(tmp_path)


def test_tensor_parallel_checkpoints_are_refused(tmp_path):
    (tmp_path / OPTIMIZER_FILE.format(0, 1)).touch()
    with pytest.raises(StateError, match="tensor or pipeline parallel"):
        read_native(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CorruptStateError, match="no such folder"):
        read_native(tmp_path / "none")
