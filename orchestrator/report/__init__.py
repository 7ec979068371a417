"""Pictures of what happened: a run's values in, one self-contained HTML page out.

Refuses to know where the values came from: no ledger, no Ray, no files but the page it writes.
"""

from orchestrator.report.page import write_report
from orchestrator.report.study_page import write_study_report
from orchestrator.report.study_values import KeyShare, StudyReport, TrialLine
from orchestrator.report.values import Day, DayLine, DayRequest, LadderRung, RunReport, Span, StepPoint

__all__ = [
    "Day",
    "DayLine",
    "DayRequest",
    "KeyShare",
    "LadderRung",
    "RunReport",
    "Span",
    "StepPoint",
    "StudyReport",
    "TrialLine",
    "write_report",
    "write_study_report",
]
