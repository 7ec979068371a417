"""The spec that a study was last opened with."""

from __future__ import annotations

import json

from orchestrator.spec import Study, load_text
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.study.record import StudyRecord


def study_of(record: StudyRecord, name: str) -> Study:
    """Raises: UserError (unknown) for a journal that nothing was written to."""
    if not record.study:
        raise UserError(f"study {name!r} was never opened", code=ExitCode.UNKNOWN)
    (study,) = load_text(json.dumps(record.study), where=f"study {name}")
    assert isinstance(study, Study)
    return study
