from __future__ import annotations

import ctypes

import pytest

from wnconvert.checkpoint.content import memory
from wnconvert.checkpoint.content.memory import OFTEN, about_to_make


def test_memory_is_given_back_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(memory, "_made", 0)
    monkeypatch.setattr(memory, "_trim", lambda: given.append)
    for size in (OFTEN - 1, 1, OFTEN // 2, OFTEN // 2 - 1):
        about_to_make(size)
    assert given == [0]
    about_to_make(1)
    assert given == [0, 0]


def test_another_c_library_need_not_know_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    memory._trim.cache_clear()
    try:
        assert memory._trim()(0) == 0
    finally:
        memory._trim.cache_clear()
