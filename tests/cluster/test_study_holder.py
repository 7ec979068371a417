"""A study under the control plane on real Ray: its trials give way, come back, and the search ends by itself."""

from __future__ import annotations

import time

import pytest

from jobs.data import pack
from orchestrator.ledger.check import check
from orchestrator.ledger.states import JobState
from orchestrator.ledger.submission import new_holder
from orchestrator.spec import Study, load_text
from orchestrator.study.journal import read_journal
from orchestrator.study.record import StudyRecord
from tests.cluster.ray_train_runs import ROOT
from tests.cluster.study_driver import STUDY
from tests.cluster.test_endpoint_holder import Plane, plane

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
__all__ = ["plane"]


def test_a_search_gives_seats_back_has_them_again_and_ends_with_its_budget(plane: Plane) -> None:
    pack(ROOT / "orchestrator", name="corpus", home=plane.state)
    (study,) = load_text(STUDY.replace("name: six", "name: talk"))
    assert isinstance(study, Study)
    plane.ledger.submit(new_holder(study, plane.cluster, now_s=time.time()))
    folder = plane.state / "studies" / "talk"
    begun = lambda: len(StudyRecord(read_journal(folder)).trials) if folder.exists() else 0  # noqa: E731
    plane.until("two trials have begun", lambda: begun() >= 2)
    assert plane.held() == 2
    plane.ledger.pin("talk", 1)
    plane.until("it holds one device", lambda: plane.held() == 1)
    plane.ledger.pin("talk", None)
    plane.until("it is done", lambda: plane.ledger.read.job("talk").state is JobState.SUCCEEDED)
    record = StudyRecord(read_journal(folder))
    assert len(record.trials) == 6
    assert plane.held() == 0
    assert (folder / "report.html").exists()
    causes = [(row.cause.value, row.world_size) for row in plane.ledger.read.attempts("talk")]
    assert causes[:2] == [("start", 2), ("resize", 1)]
    with plane.ledger.database.reading() as connection:
        assert check(connection) == []
