"""ledger/terms.py: names without case and accents, keys of UIDs, addresses of peers."""

from __future__ import annotations

import pytest

from fastjmix.ledger.terms import distinct, fold, host, is_uid, name_words, uid_key


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("MÜLLER^Jürgen", "muller jurgen"),
        ("Muller,  jurgen", "muller jurgen"),
        ("Łuczak", "łuczak"),
        ("Straße", "strasse"),
        ("ＹＡＭＡＤＡ", "yamada"),
        ("ﾔﾏﾀﾞ^ﾀﾛｳ", "ヤマタ タロウ"),
        ("Ο'Νέιλ", "ο'νειλ"),
        ("", ""),
        ("^^=", ""),
    ],
)
def test_names_are_compared_without_case_accents_and_width(text: str, folded: str) -> None:
    assert fold(text) == folded
    assert fold(fold(text)) == folded


def test_each_component_group_is_found_in_its_order_and_from_the_given_name_on() -> None:
    assert name_words("Yamada^Tarou=山田^太郎=") == {
        "yamada tarou", "tarou yamada", "山田 太郎", "太郎 山田",
    }  # fmt: skip
    assert name_words("") == set()


def test_the_instances_of_a_series_are_neighbours() -> None:
    keys = [uid_key(f"1.2.840.1.{n}") for n in range(1000)]
    assert len(set(keys)) == 1000
    assert max(keys) - min(keys) < 1 << 32
    assert abs(uid_key("1.2.840.2.1") - keys[0]) > 1 << 32
    assert all(-(1 << 63) <= key < 1 << 63 for key in map(uid_key, ("", "1", "2.25.7", "x" * 64)))


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("10.0.0.7:104", "10.0.0.7"),
        ("[fe80::1]:104", "fe80::1"),
        ("fe80::1", "fe80::1"),
        ("10.0.0.7", "10.0.0.7"),
        ("", ""),
    ],
)
def test_a_peer_is_found_by_its_address(peer: str, address: str) -> None:
    assert host(peer) == address


def test_forms() -> None:
    assert is_uid("1.2.3")
    assert not any(map(is_uid, ("1", "1.", "a.b", "1.2\n", "")))
    assert distinct(["b", "", "a", "b"]) == ("b", "a")
