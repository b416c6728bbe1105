"""Hooks in a running gateway: a pass is sent with its tags, a veto rejects, a failure holds."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastjmix.config.tree import Hook
from fastjmix.ipc.actions import DONE, Kind
from fastjmix.ledger.queries import Ledger
from fastjmix.spool.directories import State
from tests.support import wire
from tests.support.gateway import Gateway, Peer, Store, run_command, running, until, write_config
from tests.support.nodes import node, run, to
from tests.support.upstreams import Upstream

SCRIPT = """#!/bin/sh
. {directory}/behaviour
"""
"""A hook of a site: each test says what it does."""

PASSES = "exit 0"

PUT_BACK = "it has removed or replaced the archive, which was put back"


class Site:
    """A gateway with the hook "guard", and its upstream."""

    def __init__(self, directory: Path, store: Store, gateway: Gateway) -> None:
        self.directory, self.store, self.gateway = directory, store, gateway
        self._studies = 0

    def behave(self, script: str) -> None:
        """Makes the hook do this from now on."""
        (self.directory / "new").write_text(f"{script}\n")
        (self.directory / "new").rename(self.directory / "behaviour")

    def send(self) -> str:
        """Sends a study of its own. Returns the id of its envelope."""
        self._studies += 1
        lines = len(self.gateway.lines)
        study = f"1.2.826.{self._studies}"
        with Peer(self.gateway.dicom_port) as peer:
            peer.associate()
            assert peer.store(wire.data_set("1.2.3.9", study=study)) == 0
            peer.release()

        def sealed() -> list[str]:
            new = [line for line in self.gateway.lines[lines:] if " envelope_sealed " in line]
            return [word[9:] for line in new for word in line.split() if word[:9] == "envelope="]

        (envelope_id,) = until(sealed, "its envelope is sealed")
        return str(envelope_id)

    def ticket(self, state: str, envelope_id: str) -> dict[str, Any]:
        """Waits for an envelope in this state. Returns its ticket."""
        archive = self.gateway.spool / state / f"{envelope_id}.zip"
        until(archive.exists, f"{envelope_id} in {state}/")
        found: dict[str, Any] = json.loads(archive.with_suffix(".json").read_bytes())
        return found

    def hold(self, envelope_id: str) -> dict[str, Any]:
        """Waits for the hold of an envelope, and returns it."""
        path = self.gateway.spool / "outbox" / f"{envelope_id}.hold"
        until(path.exists, f"{envelope_id} is on hold")
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found

    def release(self, envelope_id: str) -> None:
        """Does what a person does who has put the hook right."""
        done = run_command("outbox", "release", envelope_id, cwd=self.gateway.spool.parent)
        assert done.returncode == 0, done


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("hooks")
    script = directory / "guard.sh"
    script.write_text(SCRIPT.format(directory=directory))
    script.chmod(0o700)
    guard = f'argv = ["{script}"]\ntimeout_secs = 5'
    with running(Store(directory)) as store, running(gateway_with(directory, store, guard)) as own:
        yield Site(directory, store, own)


def parts(options: str, endpoint: str = "") -> dict[str, Any]:
    """Returns the parts of a configuration with a hook "guard" of these options."""
    table = f'\n[middleware.guard]\ntype = "command"\n[middleware.guard.options]\n{options}\n'
    builder = f"release_grace_secs = 0{table}"
    return {"builder": builder, "middleware": '"jmix_builder", "guard"', "endpoint": endpoint}


def write(directory: Path, store: Store, options: str) -> None:
    """Writes such a configuration."""
    write_config(directory, store.port, **parts(options))


def gateway_with(directory: Path, store: Store, options: str, endpoint: str = "") -> Gateway:
    """Starts a gateway with it."""
    return Gateway(directory, store.port, **parts(options, endpoint))


def test_what_passes_is_sent_with_its_tags(site: Site) -> None:
    site.behave("""echo '{"tags": ["checked", "ct"]}'""")
    envelope_id = site.send()
    assert site.ticket("sent", envelope_id)["tags"] == ["checked", "ct"]
    assert site.store.archive(envelope_id)
    site.gateway.wait_for(rf"hook_passed hook=guard envelope={envelope_id} .*tags=checked,ct")
    ledger = Ledger(site.gateway.spool)

    def row_is_tagged() -> bool:
        row = ledger.envelope(envelope_id)
        return row is not None and row.tags == ("checked", "ct")

    until(row_is_tagged, "the ledger has the tags")


def test_a_veto_rejects_with_the_hooks_words(site: Site) -> None:
    site.behave("echo 'no consent for this study' >&2; exit 10")
    envelope_id = site.send()
    refusal = site.ticket("rejected", envelope_id)["refusal"]
    assert refusal["reason"] == "the hook guard vetoes it: no consent for this study"
    assert envelope_id not in {one["id"] for one in site.store.held()}
    shown = run_command("outbox", "list", "--rejected", cwd=site.gateway.spool.parent)
    assert "no consent for this study" in shown.stdout


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'no route to the registry' >&2; exit 1", "exit code 1: no route to the registry"),
        ("kill -SEGV $$", "signal 11"),
        ("sleep 600", "it took longer than timeout_secs = 5"),
        ("echo fine", "its stdout is no JSON"),
        ('echo x >> "$1"', "it has changed the archive"),
        ('touch -d 2000-01-01 "$1"', "it has changed the archive"),
        ('rm "$1"', PUT_BACK),
        (
            'echo x > "$1.x"; mv "$1.x" "$1"',
            "it has removed or replaced the archive, which was put back",
        ),
    ],
)
def test_a_failure_holds_the_envelope_until_a_person_releases_it(
    site: Site, script: str, reason: str
) -> None:
    """$1 of the script is the archive: the argument behind argv."""
    site.behave(script)
    envelope_id = site.send()
    hold = site.hold(envelope_id)
    assert (hold["by"], hold["why"]) == ("hook guard", f"the hook guard failed: {reason}")
    site.gateway.wait_for(rf"error .*hook_failed hook=guard envelope={envelope_id}")
    assert envelope_id not in {one["id"] for one in site.store.held()}
    site.behave(PASSES)
    site.release(envelope_id)
    damaged = ">>" in script  # in the archive itself: found on the way, as any damage is
    assert site.ticket("rejected" if damaged else "sent", envelope_id)


def test_a_hook_runs_again_after_a_kill(site: Site) -> None:
    site.behave(f"echo $$ >> {site.directory}/runs; exec sleep 600")
    envelope_id = site.send()
    runs = site.directory / "runs"
    until(runs.exists, "the hook runs")
    uploader = site.gateway.children()["uploader"]
    site.behave(f"echo $$ >> {site.directory}/runs")
    os.kill(uploader, signal.SIGKILL)
    assert site.ticket("sent", envelope_id)
    first, second = (int(pid) for pid in runs.read_text().split())
    assert first != second
    os.kill(first, signal.SIGKILL)  # its uploader could not


def test_a_sender_that_waits_learns_of_a_veto_and_of_a_failure(tmp_path: Path) -> None:
    """Nothing was promised to it: no hold is left, and no envelope that fails goes anywhere."""
    (tmp_path / "behaviour").write_text("exit 10")
    script = tmp_path / "guard.sh"
    script.write_text(SCRIPT.format(directory=tmp_path))
    script.chmod(0o700)
    with running(Store(tmp_path)) as store:
        options = f'argv = ["{script}"]'
        with running(gateway_with(tmp_path, store, options, 'ack = "uploaded"')) as own:
            for behaviour, status in (("exit 10", 0xA700), ("exit 1", 0xA700), ("exit 0", 0)):
                (tmp_path / "behaviour").write_text(behaviour)
                with Peer(own.dicom_port) as peer:
                    peer.associate()
                    found = peer.store(wire.data_set("1.2.3.9", study="1.2.3"))
                    assert bool(found) == bool(status), hex(found)
                    peer.release()
            assert len(own.wait_sent()) == 1
            assert own.envelopes("outbox") == []
            assert list((own.spool / "outbox").glob("*.hold")) == []


def test_other_hooks_after_a_reload_see_what_waits(tmp_path: Path) -> None:
    options = 'argv = ["/bin/false"]'
    with running(Store(tmp_path)) as store, running(gateway_with(tmp_path, store, options)) as own:
        one = Site(tmp_path, store, own)
        held = one.send()
        assert "exit code 1" in one.hold(held)["why"]
        write(tmp_path, store, 'argv = ["/bin/true"]')
        assert run_command("reload", cwd=tmp_path).returncode == 0
        one.release(held)
        assert one.ticket("sent", held)
        assert one.ticket("sent", one.send())


def test_an_upstream_gets_nothing_while_a_hook_runs_and_a_stop_does_not_wait(
    tmp_path: Path,
) -> None:
    begun = tmp_path / "begun"
    options = f'argv = ["/bin/sh", "-c", "touch {begun}; exec sleep 600"]\ntimeout_secs = 600'
    with running(Store(tmp_path)) as store:
        with running(gateway_with(tmp_path, store, options)) as own:
            envelope_id = Site(tmp_path, store, own).send()
            until(begun.exists, "the hook runs")
            assert store.held() == []
            assert own.stop(signal.SIGINT) == 0
        with running(gateway_with(tmp_path, store, 'argv = ["/bin/true"]')) as own:
            assert Site(tmp_path, store, own).ticket("sent", envelope_id)


def counting(directory: Path, then: str) -> Hook:
    """Returns a hook that counts its runs in `runs`, and then does this."""
    script = f"echo x >> {directory}/runs; {then}"
    return Hook("guard", ("/bin/sh", "-c", script), 20.0, 512 << 20, 1)


@pytest.mark.parametrize(("then", "state"), [("exit 0", "sent"), ("exit 10", "rejected")])
def test_a_hook_runs_once_for_several_upstreams(tmp_path: Path, then: str, state: State) -> None:
    async def test() -> None:
        async with Upstream().open() as one, Upstream().open() as two:
            both = (to(one.url, name="one"), to(two.url, name="two"))
            hooks = {"dicom_to_jmix": (counting(tmp_path, then),)}
            async with node(tmp_path / "node", both, hooks=hooks) as own:
                envelope_id = own.seal()
                assert (await own.left())[-1] == (state, envelope_id)
                ends = own.ticket(state, envelope_id).ends
                assert ends.keys() == {"one", "two"}
            assert (tmp_path / "runs").read_text() == "x\n"
            assert len(one.posts) == len(two.posts) == (state == "sent")

    run(test)


def test_a_failure_holds_for_several_upstreams(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream().open() as one, Upstream().open() as two:
            both = (to(one.url, name="one"), to(two.url, name="two"))
            once = f"test -e {tmp_path}/again || {{ touch {tmp_path}/again; exit 1; }}"
            hooks = {"dicom_to_jmix": (counting(tmp_path, once),)}
            async with node(tmp_path / "node", both, hooks=hooks) as own:
                envelope_id = own.seal()
                held = own.spool.outbox / f"{envelope_id}.hold"
                async with asyncio.timeout(20):
                    while not held.exists():
                        await asyncio.sleep(0.02)
                assert (one.posts, two.posts) == ([], [])
                assert await own.ask(Kind.RELEASE, envelope_id) == {envelope_id: DONE}
                assert (await own.left())[-1] == ("sent", envelope_id)
            assert (tmp_path / "runs").read_text() == "x\nx\n"

    run(test)
