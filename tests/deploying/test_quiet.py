from __future__ import annotations

import logging
import sys

from wnconvert.deploying.quiet import quiet


def test_nothing_is_said_within_and_all_is_as_it_was_after(capsys):
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    with quiet():
        sys.stdout.write("out")
        sys.stderr.write("err")
        assert not logger.isEnabledFor(logging.WARNING)
    assert logger.level == before
    assert capsys.readouterr() == ("", "")
