"""The page in a real browser, over a running gateway.

Each test has a browser context of its own. Each line that the page writes to the console, and every
breach of its policy, fails the test: but for the requests that a test means to be refused.
"""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support import made_up
from tests.support.acceptors import dcmtk
from tests.support.browser import CHROMIUM, launched, overflow, violations
from tests.support.gateway import Gateway, Peer, get, running, until
from tests.support.hostile import HOSTILE
from tests.support.scripted import Scripted, serving

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: `.ci/packages browser` installs it"
)

TOKEN: Final = "a-token-of-the-page"
PATIENCE_MS: Final = 30_000
expect.set_options(timeout=PATIENCE_MS)
PHONE: Final = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    with serving(Scripted()) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: Scripted) -> Iterator[Gateway]:
    """A gateway whose listener asks for a token."""
    token = f'[authentications.page]\nmethod = "bearer"\noptions.token = "{TOKEN}"'
    process = Gateway(
        tmp_path_factory.mktemp("page"),
        upstream.port,
        fastjmix=token,
        http='authentication_ref = "page"',
        builder="release_grace_secs = 0.1",
    )
    with running(process):
        yield process


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as one:
        yield one


@contextmanager
def opened(browser: Browser, url: str, refused: str = "", **context: Any) -> Iterator[Page]:
    """Opens a page. `refused` is a pattern of messages about requests that may be refused."""
    said: list[str] = []
    with browser.new_context(**context) as made:
        made.set_default_timeout(PATIENCE_MS)
        page = made.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda problem: said.append(str(problem)))
        page.on("dialog", lambda dialog: said.append(f"a dialog: {dialog.message}"))
        page.goto(url)
        yield page
    assert [text for text in said if not (refused and re.search(refused, text))] == []


@contextmanager
def signed_in(
    browser: Browser, gateway: Gateway, path: str = "/", **context: Any
) -> Iterator[Page]:
    """Opens the page and gives it the token."""
    with opened(browser, gateway.http + path, "401|ERR_", **context) as page:
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Use them").click()
        expect(page.locator("#node-state")).to_have_text("ready")
        yield page


def storescu(gateway: Gateway, directory: Path, calling: str = "CT_ONE") -> None:
    """Sends a directory with DCMTK's storescu."""
    subprocess.run(
        [dcmtk("storescu"), "-aec", "JMIX_RECEIVER", "-aet", calling, "+sd", "127.0.0.1",
         str(gateway.dicom_port), str(directory)],
        check=True, timeout=60, capture_output=True,
    )  # fmt: skip


def tile(page: Page, name: str) -> Callable[[], int]:
    """Returns a function that reads a number from a tile."""
    value = page.locator(".tiles > div", has=page.get_by_text(name, exact=True)).locator("dd").first
    return lambda: int(value.inner_text() if value.inner_text().isdecimal() else -1)


def confirm(page: Page, verb: str) -> None:
    """Presses a verb in the dialog that asks for it once more."""
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name=verb).click()


def row_of(page: Page, study: str) -> Any:
    """Returns the row of a study in the list of envelopes."""
    return page.locator("#envelopes tbody tr", has_text=study)


# -- what is seen ----------------------------------------------------------------------------------


def test_numbers_follow_what_a_modality_sends(
    browser: Browser, gateway: Gateway, tmp_path: Path
) -> None:
    made_up.write_study(tmp_path, "Live^Lina", 20)
    with signed_in(browser, gateway) as page, Peer(gateway.dicom_port) as slow:
        before = tile(page, "Sent")()
        slow.associate(calling=b"SLOW_US")
        row = page.locator("#associations tbody tr", has_text="SLOW_US")
        expect(row).to_contain_text("127.0.0.1")
        expect(row).to_contain_text("the sender")
        expect(page.locator("#lanes")).to_contain_text("1 of ")
        storescu(gateway, tmp_path)
        until(lambda: tile(page, "Sent")() > before, "the page counts the envelope")
        drawn = page.locator("path.received")
        expect(drawn).to_have_attribute("d", re.compile(r"^M.+L"))
        page.get_by_text("The last hour as a table").click()
        expect(page.locator("#hour tbody tr").first.locator("td").nth(1)).not_to_have_text("0.00")
        expect(page.locator("#upstreams tbody tr")).to_contain_text("jmix_upstream")
        assert page.locator("#announcement").inner_text() == ""  # nothing that must be read aloud


def test_a_study_is_found_by_its_patient_and_shows_its_story(
    browser: Browser, gateway: Gateway, tmp_path: Path
) -> None:
    about = {"PatientID": "P-7", "AccessionNumber": "ACC-77"}
    study = made_up.write_study(tmp_path, "Müller^Änne", 3, elements=about)
    storescu(gateway, tmp_path)
    gateway.wait_for(f"envelope_uploaded.*{study}")
    with signed_in(browser, gateway) as page:
        for word in (study, "muller", "P-7", "ACC-77"):
            link = search(page, word, study)
        link.click()
        expect(page.get_by_role("heading", name=f"Study {study}")).to_be_focused()
        for part in ("ACC-77", "CT_ONE → JMIX_RECEIVER", "Envelope sealed", "delivered 201"):
            expect(page.locator("#found")).to_contain_text(part)
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Download the study").click()
        with zipfile.ZipFile(io.BytesIO(Path(waiting.value.path()).read_bytes())) as archive:
            assert archive.testzip() is None
        page.get_by_role("link", name="fastjmix").click()
        expect(page.get_by_role("heading", name="Associations")).to_be_visible()


def search(page: Page, word: str, study: str) -> Any:
    """Searches until a study is found, as the ledger is written beside reception. Returns the link
    to its page."""
    link = page.locator(f"#found a[href='#/study/{study}']").first

    def found() -> bool:
        page.get_by_label("Word").fill(word)
        page.get_by_role("button", name="Search").click()
        expect(page.locator("#found h2")).to_be_focused()
        expect(page.locator("#found h2")).to_contain_text("Found for")
        return link.is_visible()

    until(found, f"{word} is found")
    return link


def test_a_hostile_patient_is_text(browser: Browser, gateway: Gateway, tmp_path: Path) -> None:
    shown = HOSTILE[:900].replace("\x07", "").replace("\u2028", "").replace("=", " ")
    study = made_up.write_study(
        tmp_path,
        shown,
        1,
        elements={"PatientID": "<i>\u202e1", "AccessionNumber": "<svg/onload=1>"},
    )
    storescu(gateway, tmp_path, calling="<b>'\"&")
    gateway.wait_for(f"envelope_uploaded.*{study}")
    with signed_in(browser, gateway, f"/?study={study}") as page:
        expect(page.locator("#found h3").first).to_be_visible()
        expect(page.locator("#found")).to_contain_text("<script>document.title")
        expect(page.locator("#found")).to_contain_text("⟨U+202E⟩gnp.exe")
        search(page, "<i>\u202e1", study)
        expect(page.locator("#found table")).to_contain_text("<b>'\"&")
        assert (
            page.locator("#found script, #found img, #found svg, #found i, #found b").count() == 0
        )
        assert "owned" not in page.title()
        assert overflow(page) == 0


# -- what is done ----------------------------------------------------------------------------------


def test_envelopes_are_held_released_retried_and_requeued(
    browser: Browser, gateway: Gateway, upstream: Scripted, tmp_path: Path
) -> None:
    upstream.status = 503
    study = made_up.write_study(tmp_path, "Hold^Me", 1)
    try:
        with signed_in(browser, gateway) as page:
            storescu(gateway, tmp_path)
            row = row_of(page, study)
            expect(row).to_contain_text("waiting")
            row.get_by_role("checkbox").check()
            page.locator("#live-actions").get_by_role("button", name="Hold").click()
            page.get_by_label("Reason, for others").fill("a <b>reason</b>")
            confirm(page, "Hold")
            expect(row).to_contain_text("held")
            expect(row).to_contain_text("a <b>reason</b>")
            page.get_by_role("button", name="Release all").click()
            confirm(page, "Cancel")
            expect(row).to_contain_text("held")
            page.get_by_role("button", name="Release all").click()
            confirm(page, "Release")
            expect(row).to_contain_text("waiting")
            upstream.status = 400
            page.get_by_role("button", name="Retry all").click()
            confirm(page, "Retry")
            expect(row).to_contain_text("rejected")
            upstream.status = 201
            row.get_by_role("link", name=study).click()
            page.get_by_role("button", name="Requeue").last.click()
            confirm(page, "Requeue")
            gateway.wait_for(f"envelope_uploaded.*{study}")
            expect(page.locator("#announcement")).to_contain_text("Requeue: 1 envelope")
    finally:
        upstream.status = 201


def test_without_credentials_the_page_reads_and_does_nothing(
    browser: Browser, tmp_path: Path, start: Callable[..., Gateway]
) -> None:
    gateway = start(fastjmix="", builder="release_grace_secs = 0.1")
    study = made_up.write_study(tmp_path / "s", "Open^Olga", 1)
    storescu(gateway, tmp_path / "s")
    with opened(browser, gateway.http) as page:
        expect(row_of(page, study)).to_be_visible()
        for name in ("Retry", "Hold", "Release", "Requeue", "Release all"):
            expect(
                page.locator("#live").get_by_role("button", name=name, exact=True)
            ).to_be_disabled()
        expect(page.locator("#live")).to_contain_text("Actions need a listener with credentials")
        script = """fetch("/api/node/envelopes/hold", {method: "POST", body: '{"all": true}',
            headers: {"Content-Type": "application/json"}}).then((answer) => answer.status)"""
        assert page.evaluate("() => navigator.webdriver")  # a real browser, which sends Origin
    with opened(browser, gateway.http, "403") as page:
        assert page.evaluate(script) == 403
    with opened(browser, gateway.http, java_script_enabled=False) as page:
        expect(page.locator("main")).to_contain_text(study)
        expect(page.get_by_role("table").first).to_be_visible()
        assert overflow_of_static(page) == []


def overflow_of_static(page: Page) -> list[str]:
    """Returns parts of the page that only scripts fill, and that are shown all the same."""
    return [
        part
        for part in ("#search", "#live", "#access", "#found")
        if page.locator(part).is_visible()
    ]


# -- who can use it --------------------------------------------------------------------------------


def test_the_page_without_scripts_says_what_to_do(browser: Browser, gateway: Gateway) -> None:
    with opened(browser, gateway.http, java_script_enabled=False) as page:
        expect(page.locator("main")).to_contain_text("needs JavaScript")
        expect(page.get_by_role("link", name="tables")).to_be_visible()
    status, headers, body = get(gateway.http + "/page/table")
    assert (status, "WWW-Authenticate" in headers) == (401, True)
    status, _, body = get(gateway.http + "/page/table", Authorization=f"Bearer {TOKEN}")
    assert (status, b"jmix_upstream" in body) == (200, True)


@pytest.mark.parametrize(
    ("scheme", "size"), [("light", {"width": 1280, "height": 800}), ("dark", PHONE)]
)
def test_the_rules_of_accessibility(
    browser: Browser, gateway: Gateway, tmp_path: Path, scheme: str, size: dict[str, int]
) -> None:
    study = made_up.write_study(tmp_path, "Access^Ada", 1)
    storescu(gateway, tmp_path)
    gateway.wait_for(f"envelope_uploaded.*{study}")
    settings: dict[str, Any] = {
        "color_scheme": scheme,
        "viewport": size,
        "reduced_motion": "reduce",
    }
    with opened(browser, gateway.http, "401", **settings) as page:
        expect(page.get_by_role("heading", name="Credentials")).to_be_visible()
        assert violations(page) == []
    with signed_in(browser, gateway, **settings) as page:
        assert (violations(page), overflow(page)) == ([], 0)
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") == (scheme == "light")
        link = search(page, study, study)
        assert (violations(page), overflow(page)) == ([], 0)
        link.click()
        expect(page.get_by_role("heading", name=f"Study {study}")).to_be_visible()
        assert (violations(page), overflow(page)) == ([], 0)


def test_the_keyboard_reaches_everything(
    browser: Browser, gateway: Gateway, upstream: Scripted, tmp_path: Path
) -> None:
    upstream.status = 400
    study = made_up.write_study(tmp_path, "Keys^Karl", 1)
    storescu(gateway, tmp_path)
    gateway.wait_for(f"envelope_rejected.*{study}")
    upstream.status = 201
    with opened(browser, gateway.http, "401") as page:
        expect(page.get_by_label("Token")).to_be_focused()
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#node-state")).to_have_text("ready")
        expect(page.locator("main")).to_be_focused()
        press_until(page, "Shift+Tab", "word")
        page.keyboard.type(study)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name=f"Found for “{study}”")).to_be_focused()
        press_until(page, "Tab", f"#/study/{study}")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name=f"Study {study}")).to_be_focused()
        press_until(page, "Tab", "Requeue")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        assert focused(page) == "Requeue"  # the focus is back where it was
        page.keyboard.press("Enter")
        press_until(page, "Tab", "confirm-yes")
        page.keyboard.press("Enter")
        gateway.wait_for(f"envelope_uploaded.*{study}")


def focused(page: Page) -> str:
    """Returns the id, or else the text, of what has the focus."""
    found: str = page.evaluate(
        "document.activeElement.id || document.activeElement.innerText.slice(0, 80)"
    )
    return found


def press_until(page: Page, key: str, wanted: str) -> None:
    """Presses a key until the focus is on an element of that id or text."""
    seen = []
    for _ in range(60):
        page.keyboard.press(key)
        seen.append(focused(page))
        if wanted in (seen[-1], page.evaluate("document.activeElement.getAttribute('href')")):
            return
    raise AssertionError(f"{key} does not reach {wanted}: {seen}")


def test_the_page_comes_back_by_itself_after_the_process_died(
    browser: Browser, gateway: Gateway
) -> None:
    with signed_in(browser, gateway) as page:
        stopped = gateway.children()["api"]
        os.kill(stopped, signal.SIGKILL)
        expect(page.locator("#problem")).to_contain_text("Not connected")
        expect(page.locator("#node-state")).to_have_text("ready")
        expect(page.locator("#problem")).to_be_hidden()
