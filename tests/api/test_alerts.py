"""A webhook hears of a thing that is wrong once when it begins, and once when it is over."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fastjmix.api.alerts.conditions import Condition
from fastjmix.api.alerts.forms import Alert
from fastjmix.api.alerts.watch import FILE, LOOKS_TO_END, Watch
from fastjmix.config import Secret
from fastjmix.config.tree import AlertSettings
from fastjmix.spool import tally
from fastjmix.spool.remembered import Remembered
from tests.support.apis import running
from tests.support.envelopes import ID, envelope

FULL = Condition("disk_space", "", "warning", "the storage fills up: 1 GB free")
HELD = Condition("upstream_held", "store", "warning", "upstream store is on hold")


class Webhook:
    """A real server. `posts` has what came; the next of `statuses`, or 200, is the answer."""

    def __init__(self, *statuses: int) -> None:
        self.posts: queue.Queue[Any] = queue.Queue()
        left = list(statuses)
        posts = self.posts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                posts.put(json.loads(body))
                self.send_response(left.pop(0) if left else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Keeps the test's output clean."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hooks/SECRET"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def next(self) -> Any:
        return self.posts.get(timeout=30)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "LOOK_SECS", 0.0)
    monkeypatch.setattr(tally, "REST", 0.0)


@pytest.fixture
def hooks() -> Iterator[list[Webhook]]:
    made: list[Webhook] = []
    yield made
    for one in made:
        one.close()


def settings(hook: Webhook, **more: Any) -> AlertSettings:
    return AlertSettings(Secret(hook.url), every_secs=0.05, **more)


def test_a_rejected_envelope_is_posted_once_and_so_is_its_end(
    tmp_path: Path, look_often: None, hooks: list[Webhook], capfd: pytest.CaptureFixture[str]
) -> None:
    hooks.append(hook := Webhook(503, 200))
    with running(tmp_path, alerts=settings(hook)) as gateway:
        gateway.put(envelope())
        gateway.spool.reject(ID, {"reason": "no", "status": 400})
        first, again = hook.next(), hook.next()
        assert first == again, "a post that failed is repeated"
        assert (first["status"], first["name"], first["node"]) == ("firing", "rejected", "test")
        assert "1 envelope is in rejected/" in first["text"]
        assert first["ended"] is None
        gateway.spool.requeue(ID)
        over = hook.next()
        assert (over["status"], over["name"], over["began"]) == (
            "resolved",
            "rejected",
            first["began"],
        )
    assert hook.posts.empty()
    log = capfd.readouterr().err
    assert "webhook_failed" in log
    assert "webhook_resumed" in log
    assert "SECRET" not in log


def test_a_restart_posts_nothing_twice_and_the_end_of_what_it_healed(
    tmp_path: Path, look_often: None, hooks: list[Webhook]
) -> None:
    hooks.append(hook := Webhook())
    with running(tmp_path, alerts=settings(hook)) as gateway:
        gateway.put(envelope())
        gateway.spool.reject(ID, {"reason": "no", "status": 400})
        began = hook.next()
    (tmp_path / "spool" / "rejected" / f"{ID}.zip").unlink()
    (tmp_path / "spool" / "rejected" / f"{ID}.json").unlink()
    with running(tmp_path, alerts=settings(hook)):
        over = hook.next()
    assert (over["status"], over["began"]) == ("resolved", began["began"])
    assert hook.posts.empty()


def test_an_alert_that_its_receiver_refuses_for_good_stops_no_other(
    tmp_path: Path, look_often: None, hooks: list[Webhook], capfd: pytest.CaptureFixture[str]
) -> None:
    hooks.append(hook := Webhook(404))
    with running(tmp_path, alerts=settings(hook)) as gateway:
        gateway.put(envelope())
        gateway.spool.reject(ID, {"reason": "no", "status": 400})
        assert hook.next()["status"] == "firing"
        gateway.spool.requeue(ID)
        assert hook.next()["status"] == "resolved"
    log = capfd.readouterr().err
    assert "alert_dropped" in log
    assert "SECRET" not in log


def test_a_condition_that_comes_and_goes_is_one_alert(tmp_path: Path) -> None:
    watch = Watch("node", Remembered(tmp_path / FILE))
    alerts = [*watch.look([FULL], 1.0), *watch.look([], 2.0), *watch.look([FULL], 3.0)]
    assert [(one.condition, one.ended) for one in alerts] == [(FULL, None)]
    for at in range(LOOKS_TO_END - 1):
        assert watch.look([], 4.0 + at) == []
    (over,) = watch.look([], 9.0)
    assert (over.condition, over.began, over.ended) == (FULL, 1.0, 9.0)


def test_a_text_with_other_numbers_is_the_same_condition(tmp_path: Path) -> None:
    watch = Watch("node", Remembered(tmp_path / FILE))
    assert len(watch.look([FULL, HELD], 1.0)) == 2
    assert watch.look([FULL._replace(text="0.9 GB free"), HELD], 2.0) == []
    (other,) = watch.look([FULL, HELD, HELD._replace(subject="second")], 3.0)
    assert other.condition.subject == "second"


@pytest.mark.parametrize("text", [b"", b"[]", b'{"fastjmix": 1, "entries": {"x": {"name": 1}}}'])
def test_a_damaged_file_of_what_went_on_is_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / FILE).write_bytes(text)
    assert len(Watch("node", Remembered(tmp_path / FILE)).look([FULL], 1.0)) == 1


def test_slack_gets_a_text_in_which_nothing_is_markup() -> None:
    alert = Alert("node", HELD._replace(text="<!channel> & co"), 0.0)
    assert json.loads(alert.body("slack")) == {
        "text": "[WARNING] fastjmix node: &lt;!channel&gt; &amp; co"
    }


def test_alertmanager_gets_its_list() -> None:
    alert = Alert("node", Condition("not_ready", "packer", "error", "a packer died"), 0.0, 60.0)
    assert json.loads(alert.body("alertmanager")) == [
        {
            "labels": {
                "alertname": "fastjmix_not_ready",
                "instance": "node",
                "severity": "critical",
                "subject": "packer",
            },
            "annotations": {"summary": "a packer died"},
            "startsAt": "1970-01-01T00:00:00+00:00",
            "endsAt": "1970-01-01T00:01:00+00:00",
        }
    ]
