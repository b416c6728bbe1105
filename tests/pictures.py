"""Takes the pictures of the page for README and docs, from a running gateway with made-up data.

    python -m tests.pictures docs/images

Modalities of the names here send studies of patients that do not exist, for about a minute; the
upstream refuses some and is slow. The page's hour is made to pass in that minute: its steps are
short, and its numbers are those of the short steps.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, expect

from tests.support import made_up
from tests.support.acceptors import dcmtk
from tests.support.browser import CHROMIUM, launched
from tests.support.gateway import Gateway, Peer, run_to_end, running
from tests.support.scripted import Scripted, serving

SECS: Final = 55.0
"""How long modalities send before the pictures."""

FASTER: Final = 50
"""Times as fast as usual the hour passes: 72 seconds of sending fill it."""

FIRST: Final = f"""
from pathlib import Path
main = Path("config.toml")
main.write_text(main.read_text().replace("under-test", "gateway-radiology"))
from fastjmix.api.admin import rates
usual, rates.STEP_SECS = rates.Rates.as_json, rates.STEP_SECS / {FASTER}
def stretched(self):
    found = usual(self)
    secs = found.pop("step_secs") * {FASTER}
    return {{"step_secs": secs, **{{k: [one * {FASTER} for one in v] for k, v in found.items()}}}}
rates.Rates.as_json = stretched
"""

TOKEN: Final = "shown-in-no-picture"

PATIENTS: Final = {
    "CT_EMERGENCY": ("Specimen^Sally", "EX-1001", "ACC-2001", "CT Thorax"),
    "MR_ONE": ("Muster^Max", "EX-1002", "ACC-2002", "MR Head"),
    "US_MOBILE": ("Example^Eva", "EX-1003", "ACC-2003", "US Abdomen"),
}
"""Calling AE titles, and the patient, ID, accession number and description of their studies."""


def main() -> None:
    """Writes the pictures into a directory."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory
    if CHROMIUM is None:
        raise SystemExit("pictures: no Chromium: `.ci/packages browser` installs it")
    directory.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd() / "build") as place,
        node(Path(place)) as (
            gateway,
            study,
        ),
        launched() as browser,
    ):
        take(browser, gateway, study, directory)


@contextmanager
def node(place: Path) -> Iterator[tuple[Gateway, str]]:
    """Runs a gateway with something of everything. Yields it, and a study that was delivered."""
    with serving(Scripted()) as upstream:
        process = Gateway(
            place / "node",
            upstream.port,
            first=FIRST,
            fastjmix=f'[authentications.page]\nmethod = "bearer"\noptions.token = "{TOKEN}"',
            http='authentication_ref = "page"',
            builder="release_grace_secs = 0.2",
        )
        with running(process), Peer(process.dicom_port) as slow:
            slow.associate(calling=b"NM_ARCHIVE")
            with sending(process, upstream, place) as study:
                yield process, study


@contextmanager
def sending(gateway: Gateway, upstream: Scripted, place: Path) -> Iterator[str]:
    """Sends for SECS, and on until the end of the block. Few studies are rejected, and the last
    ones wait. Yields a study that was delivered."""
    stop = threading.Event()
    studies: list[str] = []

    def modality(calling: str) -> None:
        while not stop.wait(0.2 + os.urandom(1)[0] / 400):
            studies.append(send_study(gateway, place, calling))

    threads = [threading.Thread(target=modality, args=[calling]) for calling in PATIENTS]
    for thread in threads:
        thread.start()
    try:
        for status, secs in ((201, SECS / 2), (400, 0.7), (201, SECS / 2), (503, 2.0)):
            upstream.status = status
            stop.wait(secs)
        yield studies[0]
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def send_study(gateway: Gateway, place: Path, calling: str) -> str:
    """Sends a study of a modality's patient. Returns its Study Instance UID."""
    patient, patient_id, accession, description = PATIENTS[calling]
    at = place / calling / str(time.monotonic_ns())
    about = {"PatientID": patient_id, "AccessionNumber": accession,
             "StudyDescription": description, "PatientSex": "O"}  # fmt: skip
    study = made_up.write_study(at, patient, 8 + os.urandom(1)[0] % 24, rows=256, elements=about)
    command = [dcmtk("storescu"), "-aec", "JMIX_RECEIVER", "-aet", calling, "+sd"]
    run_to_end(*command, "127.0.0.1", gateway.dicom_port, at).check_returncode()
    shutil.rmtree(at)
    return study


def take(browser: Browser, gateway: Gateway, study: str, directory: Path) -> None:
    """Takes each picture."""
    sizes = {"page-live": ("light", 1200, 1400), "page-dark": ("dark", 1200, 1400),
             "page-phone": ("light", 360, 740)}  # fmt: skip
    for name, (scheme, width, height) in sizes.items():
        with signed_in(browser, gateway, scheme, width, height) as page:
            page.screenshot(path=directory / f"{name}.png")
    with signed_in(browser, gateway, "light", 1200, 1100) as page:
        page.goto(f"{gateway.http}/#/study/{study}")
        expect(page.locator("#found h2")).to_be_visible()
        page.screenshot(path=directory / "page-study.png")


@contextmanager
def signed_in(
    browser: Browser, gateway: Gateway, scheme: str, width: int, height: int
) -> Iterator[Page]:
    with browser.new_context(viewport={"width": width, "height": height}) as context:
        page = context.new_page()
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        page.goto(gateway.http)
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#node-state")).to_contain_text("ready", timeout=30_000)
        expect(page.locator("#upstreams tbody th").first).to_be_visible()
        yield page


if __name__ == "__main__":
    main()
