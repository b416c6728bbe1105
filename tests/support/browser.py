"""A real browser for the tests of the page, and for its pictures: the system's Chromium.

Playwright drives it and brings none of its own. axe-core (Deque, MPL-2.0) comes in the wheel of
axe-playwright-python; none of its text is in this repository.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import axe_playwright_python
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser")

AXE: Final = Path(axe_playwright_python.__file__).with_name("axe.min.js")


@contextmanager
def launched() -> Iterator[Browser]:
    """Starts Chromium without a window. Its own sandbox is off: it does not start as root."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def violations(page: Page) -> list[tuple[str, list[str]]]:
    """Returns the rules of axe-core that a page breaks, each with its elements."""
    page.evaluate(AXE.read_text("utf-8"))
    found: dict[str, Any] = page.evaluate("axe.run()")
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]


def overflow(page: Page) -> int:
    """Returns by how many pixels a page is wider than its window."""
    wider: int = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return max(0, wider)
