"""Which conversion is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from wnconvert.errors import NothingToConvertError, OptionError
from wnconvert.selection import Selection
from wnconvert_cli.deploying import Wanted
from wnconvert_cli.graphing import graphed


def test_what_is_computed_is_folded_and_else_a_scheme_is_applied(module: str) -> None:
    plain = graphed(Wanted(f"{module}:build"), None, Selection())
    assert (plain.marked.verb, len(plain.report.converted)) == ("inserted", 4)
    torch.save(nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2))), "normed.pt")
    normed = graphed(Wanted("normed.pt", trust=True), None, Selection())
    assert (normed.marked.verb, [each.fqn for each in normed.report.converted]) == ("folded", ["0.weight"])
    spectral = graphed(Wanted(f"{module}:build"), "spectral_norm", Selection(include=("conv*",)))
    assert {each.scheme for each in spectral.report.converted} == {"spectral_norm"}


def test_a_program_is_a_graph(folder: Path) -> None:
    net = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    torch.export.save(torch.export.export(net, (torch.zeros(1, 2),)), "net.pt2")
    done = graphed(Wanted("net.pt2"), None, Selection())
    assert done.marked.verb == "folded"
    assert len(done.marked.after.nodes) < len(done.marked.before.nodes)
    assert "folded" in done.marked.regions()[0].values()


def test_options_that_do_not_go_together_are_refused(module: str) -> None:
    with pytest.raises(OptionError, match="--model and --trust go with a file"):
        graphed(Wanted(f"{module}:build", trust=True), None, Selection())
    with pytest.raises(NothingToConvertError):
        graphed(Wanted(f"{module}:build"), "weight_norm", Selection(include=("nothing",)))
