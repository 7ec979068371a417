"""The page around the figures: one HTML file without scripts or outside resources."""

from __future__ import annotations

import html
import os
from pathlib import Path

from orchestrator.report.plots import day_svg, ladder_svg, timeline_svg, training_svg
from orchestrator.report.values import RunReport

_STYLE = """
:root { color-scheme: light; --ink: #1f2933; --soft: #52606d; --line: #d9e2ec; --accent: #0b7285; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .3rem; } h2 { font-size: 1.1rem; margin-top: 2rem; color: var(--accent); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .8rem 1.5rem; margin: 1rem 0; }
dt { color: var(--soft); font-size: .85rem; } dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
pre { background: #f5f7fa; border: 1px solid var(--line); padding: .8rem; white-space: pre-wrap; }
pre b { color: var(--accent); } .wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { vertical-align: bottom; } th small { color: var(--soft); font-weight: 400; }
.number { text-align: right; font-variant-numeric: tabular-nums; } tr.best td { font-weight: 600; color: #c92a2a; }
svg { width: 100%; height: auto; } li, p { color: var(--soft); } p { margin: .2rem 0 .6rem; }
"""


def write_report(report: RunReport, path: Path) -> Path:
    """Write the page for `report` to `path`, whole or not at all; returns `path`."""
    return write_text(render(report), path)


def write_text(text: str, path: Path) -> Path:
    """Write a page to `path`, whole or not at all; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(path.suffix + f".{os.getpid()}.tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
    return path


def render(report: RunReport) -> str:
    """The page as text."""
    return render_page(report.title, _sections(report))


def render_page(heading: str, sections: list[str]) -> str:
    """A page of these sections, which are HTML already."""
    title = html.escape(heading)
    body = "\n".join(sections)
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head>\n"
        f"<body><h1>{title}</h1>\n{body}\n</body></html>\n"
    )


def _sections(report: RunReport) -> list[str]:
    facts = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in report.summary)
    sections = [f"<dl>{facts}</dl>"]
    if report.steps:
        sections.append(f"<h2>Training</h2>{training_svg(report.steps)}")
    if report.spans:
        sections.append(f"<h2>Timeline</h2>{timeline_svg(report.spans)}")
    if report.ladder:
        sections.append(f"<h2>How good is the model?</h2>{ladder_svg(report.ladder)}")
    if report.prompt:
        text = f"<b>{html.escape(report.prompt)}</b>{html.escape(report.completion)}"
        sections.append(f"<h2>What it writes</h2><pre>{text}</pre>")
    if report.day and report.day.lines:
        source = html.escape(f"{report.day.hours:.0f} hours in {report.day.seconds:.0f} s: {report.day.source}.")
        sections.append(f"<h2>A day</h2><p>{source}</p>{day_svg(report.day)}")
    if report.notes:
        sections.append("<h2>Notes</h2><ul>" + "".join(f"<li>{html.escape(n)}</li>" for n in report.notes) + "</ul>")
    return sections
