"""config/bounds.py (row S34): a file that is costly to read is refused before it costs anything."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from fastjmix import config
from fastjmix.config import ConfigError, bounds
from fastjmix.config.bounds import excess
from tests.config.test_secrets import texts
from tests.support.configs import written

SIZE = bounds.CONFIG_BYTES_MAX - 100


def many(unit: str) -> str:
    return unit * (SIZE // len(unit.encode()))


def numbered(form: str) -> str:
    length = len(form.format(10**5))
    return "".join(form.format(10**5 + n) for n in range(SIZE // length))


DEEP = ".".join("a" * bounds.KEY_PARTS_MAX)


COSTLY = {
    "dots": "a" + ".a" * 50_000 + " = 1\n",
    "dots with blanks": "a" + " . a" * 50_000 + " = 1\n",
    "quoted dots": '"a"' + '."a"' * 50_000 + " = 1\n",
    "dots in a header": "[a" + ".a" * 50_000 + "]\n",
    "dots in an inline table": "a = {a" + ".a" * 50_000 + " = 1}\n",
    "many deep keys": f"[{DEEP}]\n" + numbered(f"{DEEP[:-2]}.b{{}}=1\n"),
    "many deep headers": numbered(f"[{DEEP[:-2]}.b{{}}]\n"),
    "arrays in arrays": "a = " + "[" * 100_000,
    "tables in tables": "a = " + "{a=" * 100_000,
    "closed arrays": "a = " + "[" * 400 + "]" * 400,
    "keys": numbered("k{}=1\n"),
    "keys of a table": "[proxy]\n" + numbered("k{}=1\n"),
    "long keys": "[proxy]\n" + numbered("name" * 500 + "{}=1\n"),
    "one long key": "[proxy]\n" + "name" * 100_000 + "=1\n",
    "tables": numbered("[targets.k{}]\n"),
    "wrong tables": numbered("targets.k{}=1\n"),
    "array of tables": many("[[targets]]\n"),
    "items": "[pipelines.p]\nnetworks=[" + numbered('"n{}",') + "]",
    "numbers": "a=[" + many("1,") + "]",
    "empty arrays": "a=[" + many("[],") + "]",
    "references": "a='" + many("${A}") + "'",
    "half references": "a='" + many("${") + "'",
    "a long string": "[proxy]\nname='" + many("x") + "'",
    "a long level": "[proxy]\nlog_level='" + many("x") + "'",
    "a long method": "[authentications.a]\nmethod='" + many("x") + "'",
    "a long secret": "[authentications.a.options]\ntoken='" + many("x") + "'",
    "secrets": "[authentications.a.options]\n" + numbered("token{0}='secret-value-{0}'\n"),
    "a huge integer": "[fastjmix]\nlane_bytes=" + many("9"),
    "a huge hexadecimal": "[fastjmix]\nlane_bytes=0x" + many("f"),
    "a large hexadecimal": "[storage.options]\nsoft_reserve_bytes=0xfffffffffffffffff\n",
    "a large negative": "[storage.options]\nsoft_reserve_bytes=-9223372036854775809\n",
    "a huge fraction": "[fastjmix]\ngrace_secs=1." + many("9"),
    "escapes": 'a="' + many("\\n") + '"',
    "quotes": many('"""\\"""'),
    "open quotes": many("'''a"),
    "single quotes": many("'"),
    "backslashes": '"""' + many("\\"),
    "NUL": "[storage.options]\npath='" + "a" + "'\n[proxy]\npipelines_path=\"a\\u0000\"\n",
    "NUL bytes": many("\0"),
    "comments": many("#\n"),
    "lines": many("\n"),
    "carriage returns": many("\r"),
    "dates": "a=[" + many("2024-01-01T00:00:00Z,") + "]",
    "no date": "a=" + many("2024-13-"),
    "bytes": many("x") * 8,
    "not UTF-8": many("ä")[:-1] + "\udcff",
}  # fmt: skip


@pytest.mark.fault("S34")
@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    """Files that took half a minute, or recursed, are refused within seconds of a busy machine."""
    main = written(tmp_path)
    costly = tmp_path / "pipelines" / "z.toml"
    costly.write_bytes(COSTLY[name].encode("utf-8", "surrogateescape"))
    begun = time.process_time()
    with pytest.raises(ConfigError) as caught:
        config.load(main)
    spent = time.process_time() - begun
    assert spent < 2.5, f"{spent:.1f} s"
    assert len(caught.value.faults) <= bounds.FAULTS_MAX
    assert all(str(one).startswith(f"{tmp_path}/") for one in caught.value.faults)
    assert len(str(caught.value)) < 400_000
    logging.info("%s: %.2f s", name, spent)


@pytest.mark.fault("S34")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_parts_of_a_key(tmp_path: Path, off: int) -> None:
    key = ".".join("k" * (bounds.KEY_PARTS_MAX + off))
    for text in (f"{key} = 1", f"[{key}]", f"[[ {key} ]]", f"a = {{ {key} = 1 }}", f"x=1\n{key}=1"):
        found = excess(f"# a comment. with. dots\n{text}\n")
        assert (found is None) == (off <= 0), text
        assert found is None or found.line == text.count("\n") + 2
    dots = "." * 100
    for text in (f'a = "{dots}"', f"a = '{dots}'", f'a = """\n{dots}"""', f"# {dots}", "a = 1.5"):
        assert excess(f"{text}\n") is None


@pytest.mark.fault("S34")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_brackets_in_brackets(off: int) -> None:
    depth = bounds.NESTING_MAX + off
    for text in ("[" * depth + "]" * depth, "{a=" * depth + "}" * depth):
        assert (excess(f"a = {text}\n") is None) == (off <= 0)
    assert excess(f'a = "{"[" * 99}"\nb = [{"[]," * 99}]\n') is None


@pytest.mark.fault("S34")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_bytes_of_all_files(tmp_path: Path, off: int) -> None:
    main = written(tmp_path)
    held = sum(path.stat().st_size for path in tmp_path.rglob("*.toml"))
    (tmp_path / "pipelines" / "a.toml").write_text("#" * (bounds.CONFIG_BYTES_MAX - held - 5))
    (tmp_path / "pipelines" / "z.toml").write_text("#" * (5 + off))
    assert ("too many bytes" in texts(main)) == (off > 0)


@pytest.mark.fault("S34")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_files_of_pipelines(tmp_path: Path, off: int) -> None:
    main = written(tmp_path)
    for number in range(bounds.FILES_MAX + off - 1):
        (tmp_path / "pipelines" / f"{number}.toml").touch()
    assert (f"{bounds.FILES_MAX + off} *.toml files" in texts(main)) == (off > 0)


@pytest.mark.fault("S34")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_keys_and_values(tmp_path: Path, off: int) -> None:
    main = tmp_path / "config.toml"
    main.write_text("a = [" + "1," * (bounds.VALUES_MAX + off - 1) + "]")
    assert ("too many keys and values" in texts(main)) == (off > 0)


@pytest.mark.fault("S34")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_faults_that_are_listed(tmp_path: Path, off: int) -> None:
    main = written(tmp_path)
    count = bounds.FAULTS_MAX + off
    (tmp_path / "pipelines" / "z.toml").write_text("".join(f"k{n} = 1\n" for n in range(count)))
    text = texts(main)
    assert text.count("found:") >= min(count, bounds.FAULTS_MAX)
    assert (" faults or more in the configuration" in text) == (off >= 0)


@pytest.mark.fault("S34")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_words_that_may_be_misspelt(tmp_path: Path, off: int) -> None:
    word = "x" * (bounds.WORD_CHARS_MAX + off - 1) + "y"
    main = written(
        tmp_path,
        f"pipelines.dicom_to_jmix.networks = ['{word}']\n"
        f"network.{word[:-1]}z.tcp_config.bind_port = 1",
    )
    assert ("nearest:" in texts(main)) == (off <= 0)
