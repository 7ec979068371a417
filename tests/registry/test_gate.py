"""A gate says what it wanted and what it got."""

from __future__ import annotations

import pytest

from orchestrator.registry.gate import check_gate
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.job_parts import Gate


def gate(**bounds: float) -> Gate:
    return Gate.model_validate({"metric": "bits_per_byte", **bounds})


@pytest.mark.parametrize("bounds", [{"max": 2.0}, {"min": 2.0}, {"min": 1.9, "max": 2.1}])
def test_what_reaches_it_passes(bounds: dict[str, float]) -> None:
    check_gate(gate(**bounds), {"bits_per_byte": 2.0}, where="here")


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"max": 1.9}, "at most 1.9"),
        ({"min": 2.1}, "at least 2.1"),
        ({"min": 2.1, "max": 3.0}, "at least 2.1 and at most 3.0"),
    ],
)
def test_what_does_not_is_refused(bounds: dict[str, float], said: str) -> None:
    with pytest.raises(UserError) as refused:
        check_gate(gate(**bounds), {"bits_per_byte": 2.0}, where="m on d", next_step="Look again")
    problem = f"bits_per_byte is 2, and the gate is {said}: the model is not registered"
    assert (str(refused.value), refused.value.code) == (f"m on d: {problem}. Look again", ExitCode.JOB_FAILED)


def test_a_metric_that_nobody_reports_is_refused() -> None:
    with pytest.raises(UserError, match="the task reports no bits_per_byte; it reports accuracy"):
        check_gate(gate(max=1), {"accuracy": 1.0}, where="")
