"""Every way to fail has one of few names; the texts are those that gloo and NCCL write."""

from __future__ import annotations

import pytest

from jobs.train.failures import NotFiniteError, classify
from jobs.train.state.errors import CorruptStateError, StorageError
from orchestrator.spec.errors import ExitCode, UserError


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotFiniteError("loss"), "nan"),
        (CorruptStateError("flipped"), "state"),
        (StorageError("full"), "state"),
        (UserError("no such task"), "user_code"),
        (UserError("no route", code=ExitCode.UNREACHABLE), "environment"),
        (MemoryError(), "environment"),
        (OutOfMemoryError("CUDA out of memory"), "environment"),
        (RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 3000ms for recv operation"), "hang"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:44412"), "lost_peer"),
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:541] Read error: Connection reset by peer"),
            "lost_peer",
        ),
        (RuntimeError("NCCL error: remote process exited or there was a network error"), "lost_peer"),
        (ValueError("timeout must be positive"), "user_code"),
    ],
)
def test_kind_of(error: BaseException, kind: str) -> None:
    assert classify(raised(error)) == kind


def test_an_assertion_of_ours_is_our_bug() -> None:
    from jobs.train.agree import Rhythm, Total, decide

    own = Total(step=5, stop=True, checkpoint=False, loss=0.0, hash_hi=0, hash_lo=0)
    with pytest.raises(AssertionError) as caught:
        decide(Rhythm(steps=10, snapshot_every_steps=0), 5, [own])
    assert classify(caught.value) == "internal"


def test_a_shape_error_inside_torch_belongs_to_the_model_that_called_it() -> None:
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.nn.Linear(2, 2)(torch.zeros(3))
    assert classify(caught.value) == "user_code"
