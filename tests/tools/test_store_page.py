"""tools/store/page.py: an envelope writes no HTML."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastjmix.tools.store import page
from tests.support.envelopes import members, zipped
from tests.support.stores import Client, with_store
from tests.tools.test_store_callers import html


@pytest.mark.fault("S48")
def test_an_envelope_writes_no_html_into_the_page(tmp_path: Path) -> None:
    study = "<script>alert('1')</script>&\"'"
    studies = {study: {"study_uid": study, "series": []}}
    studies |= {f"1.{n}": {"study_uid": f"1.{n}", "series": []} for n in range(page.SHOWN_STUDIES)}

    async def test(client: Client) -> None:
        data = zipped(members(metadata={"studies": studies}))
        assert (await client.post(data))[0] == 201
        _, text, headers = await html(client)
        assert "<script" not in text
        assert "&lt;script&gt;" in text
        assert "and 1 more" in text
        assert "default-src 'none'" in headers["Content-Security-Policy"]

    with_store(tmp_path, test)
