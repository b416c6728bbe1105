"""A reader gets a whole state of another process, however often it is replaced."""

from __future__ import annotations

import os

import pytest

from fastjmix.ipc.state_board import STATE_MAX, StateBoard


def test_the_latest_state_is_read_and_rows_are_apart() -> None:
    board = StateBoard(["one", "two"])
    assert board.read("one") == {}
    board.publish("one", {"count": 1})
    board.publish("one", {"count": 2})
    board.publish("two", {"count": 3})
    assert (board.read("one"), board.read("two")) == ({"count": 2}, {"count": 3})


def test_a_reader_never_sees_half_a_state() -> None:
    board = StateBoard(["one"])
    board.publish("one", {"count": 0, "text": ""})
    pid = os.fork()
    if not pid:
        for count in range(1, 20_001):
            board.publish("one", {"count": count, "text": str(count) * (count % 50)})
        os._exit(0)
    last = 0
    while last < 20_000:
        state = board.read("one")
        assert state.get("text", "") == str(state.get("count")) * (state.get("count", 0) % 50)
        last = state.get("count", last)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_writer_that_died_in_the_middle_leaves_the_state_before() -> None:
    board = StateBoard(["one"])
    board.publish("one", {"count": 1})
    board.publish("one", {"count": 2})
    board._memory[0 + 20] ^= 0xFF  # the slot of the second state
    assert board.read("one") == {"count": 1}
    board.publish("one", {"count": 3})
    assert board.read("one") == {"count": 3}


def test_a_state_that_is_too_large_is_an_error_and_the_last_one_stays() -> None:
    board = StateBoard(["one"])
    board.publish("one", {"count": 1})
    with pytest.raises(ValueError, match=str(STATE_MAX)):
        board.publish("one", {"text": "x" * STATE_MAX})
    assert board.read("one") == {"count": 1}
