"""Reports in a real browser: each draws, fits a phone and a desk, and asks the network for nothing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.policy.study.values import Rates
from orchestrator.report import write_report
from orchestrator.study.pages import write_page
from tests.report.test_page import FULL
from tests.study.worlds import World, drive, make_study

_QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def _job_page(folder: Path) -> Path:
    return write_report(FULL, folder / "report.html")


def _study_page(folder: Path) -> Path:
    study = make_study(more="  repeat: {top: 2, seeds: 2}")
    record = drive(study, folder / "search", World())
    return write_page(study, record, Rates(usd_per_device_hour=2.0), folder / "report.html", running=False)


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize(("make", "figures"), [(_job_page, 4), (_study_page, 4)])
def test_page_renders_without_overflow(tmp_path: Path, make: Callable[[Path], Path], figures: int, width: int) -> None:
    browser = shutil.which("chromium")
    assert browser, "chromium is needed: apt install chromium"
    page = make(tmp_path)
    # The probe runs in the browser after the page is laid out; its verdict lands in the title.
    probe = "<script>document.title=[document.querySelectorAll('svg').length,"
    probe += "document.documentElement.scrollWidth<=innerWidth].join(' ')</script></body>"
    page.write_text(page.read_text().replace("</body>", probe))
    command = [browser, *_QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom"]
    dom = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=60, check=True).stdout
    assert f"<title>{figures} true</title>" in dom
