"""The documents: their commands and their Python are typed as they stand, their TOML is loaded.

Addresses alone are others: 11113, 8086 and 8087 stand for ports of the system's choosing.
not_typed.toml names the commands that are not typed here, with the reason for each. `make` and a
verb of it is never typed, for most verbs would run these tests.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fastjmix import config
from fastjmix.cli.tree import app
from fastjmix.tools import launch
from tests.support.configs import written
from tests.support.gateway import PATIENCE, Process, Store, running

ROOT = Path(__file__).parent.parent
UNIT = "contrib/fastjmix.service"
BESIDE_DOCS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", UNIT)
PAGES = (*BESIDE_DOCS, *sorted(str(one.relative_to(ROOT)) for one in ROOT.glob("docs/**/*.md")))
TYPED = ("README.md", "docs/envelopes.md")
"""The pages whose commands are typed, in the order in which they are read."""

NOT_TYPED = tomllib.loads((ROOT / "tests/not_typed.toml").read_text("utf-8"))["not_typed"]

OWN_PORTS = """
network.dicom_net.tcp_config = { bind_address = "127.0.0.1", bind_port = 0 }
network.http_net.http.bind_port = 0
"""


# -- what the pages say ----------------------------------------------------------------------------


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def blocks(page: str, language: str) -> list[str]:
    """Returns the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)


def indented(page: str) -> list[str]:
    """Returns the lines of a page's indented blocks; of the unit those that are no path."""
    if page == UNIT:
        return re.findall(r"^#     ([^/\s].*)$", text_of(page), re.MULTILINE)
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"(?:^\n)((?:^    .*\n)+)", prose, re.MULTILINE)
    return [line[4:] for block in found for line in block.splitlines()]


def commands(page: str) -> list[str]:
    """Returns the commands of a page's blocks, without their comments."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    bare = [re.sub(r"(^|\s+)# .*", "", line).strip() for line in lines + indented(page)]
    return [line for line in bare if line]


def is_verb(command: str) -> bool:
    """Returns whether a command is `make` and a verb of it, with variables or without."""
    return re.match(r"(\w+=\S+ )*make [a-z]", command) is not None


def not_typed(page: str) -> list[str]:
    listed = [one for group in NOT_TYPED if group["page"] == page for one in group["commands"]]
    return [*listed, *filter(is_verb, commands(page))]


def spans(page: str) -> list[str]:
    """Returns what a page shows as code in a sentence or a table."""
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"`([^`]+)`", prose)
    return [re.sub(r"\s+", " ", one.replace("\\|", "|")) for one in found]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_typed_or_has_a_reason(page: str) -> None:
    rest = [one for one in commands(page) if one not in not_typed(page)]
    assert page in TYPED or rest == [], "type it in test_documents.py, or give a reason"


@pytest.mark.parametrize("group", NOT_TYPED, ids=lambda group: group["commands"][0])
def test_what_is_not_typed_is_in_its_page(group: dict[str, str]) -> None:
    assert group["reason"].endswith(".")
    assert [one for one in group["commands"] if one not in commands(group["page"])] == []
    tests = re.findall(r"tests/[\w/]+\.py", group["reason"])
    assert [one for one in tests if not (ROOT / one).exists()] == []


# -- what sentences name ---------------------------------------------------------------------------


def wrong_in(line: str) -> str | None:
    """Returns the word of a `fastjmix …` that is no command and no option; None if all are."""
    command: click.Command = app
    known = {"--version"}
    for word in shlex.split(line)[1:]:
        known |= {name for one in command.params for name in one.opts} | {"-h", "--help"}
        if word.startswith("-"):
            if word.split("=")[0] not in known:
                return word
        elif isinstance(command, click.Group):
            if word not in command.commands:
                return word
            command = command.commands[word]
    return None


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_sentences_are_commands(page: str) -> None:
    verbs = re.findall(r"^([a-z-]+):.*## ", text_of("Makefile"), re.MULTILINE)
    wrong = []
    for line in spans(page) + commands(page):
        if re.match(r"fastjmix( |$)", line) and wrong_in(line):
            wrong.append(line)
        if (verb := re.match(r"(?:\w+=\S+ )*make ([a-z-]+)", line)) and verb[1] not in verbs:
            wrong.append(line)
        module = re.match(r"python3? -m ([\w.]+)", line)
        if module and importlib.util.find_spec(module[1]) is None:
            wrong.append(line)
    assert wrong == []


def test_a_command_that_is_none_is_found() -> None:
    assert wrong_in("fastjmix envelope verify FILE --public-key K") is None
    assert wrong_in("fastjmix envelope vrify FILE") == "vrify"
    assert wrong_in("fastjmix run --conifg FILE") == "--conifg"


# -- typed -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A reader's copy of the sources with the README's gateway and its store beside it.

    Gives the directory, and the ports by those that the documents name.
    """
    at = tmp_path_factory.mktemp("desk")
    activate = at / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()  # the commands have the environment of the tests already
    with running(Store(at)) as store:
        own_store = blocks("README.md", "toml")[1].replace("8087", str(store.port))
        written(at, OWN_PORTS + own_store, base=ROOT)
        with running(Process("run", "-c", "config.toml", cwd=at)) as gateway:
            ports = {
                "11113": gateway.wait_for(launch.listening("dicom"))[1],
                "8086": gateway.wait_for(launch.listening("http"))[1],
                "8087": str(store.port),
            }
            gateway.wait_for("http_listening")
            yield at, ports
            assert gateway.stop() == 0


def typed(page: str, ports: dict[str, str]) -> str:
    """Returns a page's commands, each after the one before has succeeded."""
    left_out = not_typed(page)
    lines = [one for one in commands(page) if one not in left_out]
    return re.sub(r"\b(11113|8086|8087)\b", lambda port: ports[port[1]], "\n".join(lines))


def test_the_documents_typed_in_their_order(desk: tuple[Path, dict[str, str]]) -> None:
    """One reader: README's commands, those of docs/envelopes.md, its Python, its TOML."""
    at, ports = desk
    python = blocks("docs/envelopes.md", "python")
    assert len(python) == 1
    script = [typed(page, ports) for page in TYPED] + [f"python - <<'END'\n{python[0]}END\n"]
    (at / "typed").write_text("\n".join(script))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-u", "-o", "pipefail", "-x", "typed"],
        cwd=at,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": path, "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count(": valid: ") == 2
    assert (at / "study" / "manifest.json").is_file()
    load_the_tables_of("docs/envelopes.md", at)


def load_the_tables_of(page: str, at: Path) -> None:
    """Loads the shipped configuration with a page's tables merged into it, one after another."""
    keys = [at / "pipelines" / "signing.pem", at / "recipient.pub"]
    changes = ""
    for number, block in enumerate(blocks(page, "toml")):
        changes += block
        main = written(at / f"tables-{number}", changes, base=ROOT)
        for key in keys:
            shutil.copy(key, main.parent / "pipelines")
        config.load(main)


@pytest.mark.parametrize("number", [0, 1])
def test_the_tables_of_the_readme(tmp_path: Path, number: int) -> None:
    config.load(written(tmp_path, blocks("README.md", "toml")[number], base=ROOT))
