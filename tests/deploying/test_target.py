from __future__ import annotations

from pathlib import Path

import pytest

from wnconvert.deploying import target
from wnconvert.deploying.target import TARGETS, target_of
from wnconvert.errors import OptionError


def test_the_longest_suffix_counts():
    names = [target_of(Path(name)).name for name in ("a.pt2", "a.aoti.pt2", "a.ONNX", "a.b.pte")]
    assert names == ["torch_export", "aot_inductor", "onnx", "executorch"]
    assert sorted(names) == list(TARGETS)


def test_a_suffix_that_says_nothing_is_refused():
    with pytest.raises(OptionError, match=r"'a\.pt' says by no suffix"):
        target_of(Path("a.pt"))


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(target, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match="ExecuTorch needs 'executorch', not installed here; pip install executorch"):
        target_of(Path("a.pte")).require()
