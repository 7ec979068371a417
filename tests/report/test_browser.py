"""The report in a real browser: it draws, fits a phone and a desk, and asks the network for nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.report import write_report
from tests.report.test_page import FULL

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


@pytest.mark.parametrize("width", [400, 1200])
def test_page_renders_without_overflow(tmp_path: Path, width: int) -> None:
    browser = shutil.which("chromium")
    assert browser, "chromium is needed: apt install chromium"
    page = write_report(FULL, tmp_path / "report.html")
    # The probe runs in the browser after the page is laid out; its verdict lands in the title.
    probe = "<script>document.title=[document.querySelectorAll('svg').length,"
    probe += "document.documentElement.scrollWidth<=innerWidth].join(' ')</script></body>"
    page.write_text(page.read_text().replace("</body>", probe))
    command = [browser, *_QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom"]
    dom = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "<title>3 true</title>" in dom
