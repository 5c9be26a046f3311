"""Functions that run in turns."""

from __future__ import annotations

import contextvars
import threading

import pytest
import torch

from wnconvert.training.initialization.lockstep import in_lockstep

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME")


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_question_is_answered_once_all_have_asked(count):
    seen = []

    def function(index):
        def run(ask):
            seen.append((index, ask(index), ask(index + 100)))

        return run

    def settle(waiting):
        settled.append(dict(waiting))
        return {index: -question for index, question in waiting.items()}

    settled: list[dict[int, int]] = []
    in_lockstep([function(index) for index in range(count)], settle)
    assert settled == [{i: i for i in range(count)}, {i: i + 100 for i in range(count)}]
    assert seen == [(index, -index, -index - 100) for index in range(count)]


def test_some_may_wait_longer_than_others_and_end_earlier():
    ended = []

    def short(ask):
        ended.append("short" if ask("a") == 1 else "")

    def long(ask):
        ended.append([ask("a"), ask("b")])

    def settle(waiting):
        index = max(waiting)
        return {index: 1}

    in_lockstep([short, long], settle)
    assert ended == [[1, 1], "short"]


@pytest.mark.parametrize("fails", ["first", "second", "settle"])
def test_what_one_raises_is_raised_and_the_others_end(fails):
    def first(ask):
        try:
            ask(1)
        except Exception:  # noqa: BLE001 - as user code may
            ask(2)
        if fails == "first":
            raise KeyError("first")
        ask(3)

    def second(ask):
        ask(1)
        if fails == "second":
            raise KeyError("second")
        ask(3)

    def settle(waiting):
        if fails == "settle" and 3 in waiting.values():
            raise KeyError("settle")
        return dict.fromkeys(waiting, None)

    with pytest.raises(KeyError, match=fails):
        in_lockstep([first, second], settle)


def test_one_that_goes_on_asking_when_it_is_ended_ends():
    def stubborn(ask):
        for _ in range(3):
            try:
                ask(1)
            except BaseException:  # noqa: BLE001
                continue

    def failing(ask):
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        in_lockstep([stubborn, failing], lambda waiting: dict.fromkeys(waiting))


def test_the_modes_of_the_caller_hold():
    found = []

    def function(ask):
        one = torch.ones(2, 2, device="cpu")
        made = one @ one
        found.append((torch.is_grad_enabled(), made.dtype, torch.get_default_device().type, NAME.get()))
        ask(0)

    NAME.set("here")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        in_lockstep([function, function], lambda waiting: dict.fromkeys(waiting))
    assert found == [(False, torch.bfloat16, "meta", "here")] * 2
