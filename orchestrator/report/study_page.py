"""A study's page: one HTML file without scripts or outside resources."""

from __future__ import annotations

import html
from pathlib import Path

from orchestrator.report.page import render_page, write_text
from orchestrator.report.study_plots import curves_svg, parallel_svg, shares_svg, spending_svg
from orchestrator.report.study_values import StudyReport

_PARALLEL = (
    "One line a trial, from what it drew to its last result, after as many steps as it was given. Darker is better; "
    "the best one is red."
)
_CURVES = "What each trial reported, and after how many steps."
_SHARES = "How much of the order of the results each one explains by itself; pale bars may be chance."
_SPENDING = "The best result of any trial after any number of steps, against all that had been used by then."


def write_study_report(report: StudyReport, path: Path) -> Path:
    """Write the page for `report` to `path`, whole or not at all; returns `path`."""
    return write_text(render_page(report.title, _sections(report)), path)


def _sections(report: StudyReport) -> list[str]:
    facts = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in report.summary)
    sections = [f"<dl>{facts}</dl>"]
    measured = [trial for trial in report.trials if trial.curve]
    if report.notes:
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in report.notes)
        sections.append(f"<h2>What can be said</h2><ul>{notes}</ul>")
    if measured:
        sections.append(_figure("Trials: what was drawn, and what came of it", _PARALLEL, parallel_svg(report)))
        sections.append(_figure("Learning curves", _CURVES, curves_svg(report)))
    if report.shares:
        sections.append(_figure("Which parameter mattered?", _SHARES, shares_svg(report.shares, report.shares_basis)))
    if len(report.spending) > 1:
        sections.append(_figure("Cost against the best so far", _SPENDING, spending_svg(report)))
    if report.rows:
        sections.append(f"<h2>All trials</h2>{_table(report)}")
    return sections


def _figure(heading: str, caption: str, svg: str) -> str:
    return f"<h2>{heading}</h2><p>{caption}</p>{svg}"


def _table(report: StudyReport) -> str:
    columns = list(zip(*report.rows, strict=True))
    number = [all(_is_number(cell) for cell in column if cell) and any(column) for column in columns]
    head = "".join(_cell("th", _heading(name), right) for name, right in zip(report.header, number, strict=True))
    best = next((trial.trial for trial in report.trials if trial.is_best), None)
    rows = "".join(
        ("<tr class='best'>" if row[0] == best else "<tr>")
        + "".join(_cell("td", html.escape(cell), right) for cell, right in zip(row, number, strict=True))
        + "</tr>"
        for row in report.rows
    )
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _cell(tag: str, text: str, right: bool) -> str:
    return f"<{tag} class='number'>{text}</{tag}>" if right else f"<{tag}>{text}</{tag}>"


def _heading(name: str) -> str:
    """A key's parts one above the other: a table of long names would not fit a page."""
    above, dot, last = name.rpartition(".")
    return f"<small>{html.escape(above)}.</small><br>{html.escape(last)}" if dot else html.escape(name)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
