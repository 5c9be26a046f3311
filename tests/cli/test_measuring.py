"""The numbers of the weights in a file, whatever its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.onnx_files.graphs import exported
from wnconvert.errors import CheckpointError, OptionError
from wnconvert_cli.measuring import compared, measured, require_other


def of(norm: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(norm(nn.Conv1d(3, 8, 4)), nn.Conv1d(8, 4, 1)).eval()


def test_one_model_has_the_same_numbers_in_every_container(folder: Path) -> None:
    net = of(torch.nn.utils.parametrizations.weight_norm)
    torch.save(net.state_dict(), "net.pt")
    torch.save(of(nn.utils.weight_norm), "whole.pt")
    save_file(net.state_dict(), "net.safetensors")
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 9),)), "net.pt2")
    exported(net, torch.zeros(1, 3, 9), folder / "net.onnx", dynamo=False)
    found = {}
    for name in ("net.pt", "whole.pt", "net.safetensors", "net.pt2", "net.onnx"):
        numbers = measured(Path(name), None, trust=False)
        found[name] = [(each.name, each.shape, each.scheme, each.norms and each.norms.count) for each in numbers]
    expected = [("0.weight", (8, 3, 4), "weight_norm", 8), ("1.weight", (4, 8, 1), None, 4)]
    # an ONNX file has what its exporter made of the norm
    other = [("0.weight", (8, 3, 4), "expression", 8), *expected[1:]]
    assert found == {name: other if name == "net.onnx" else expected for name in found}
    sigmas = [[each.sigma for each in measured(Path(name), None, trust=False)] for name in ("net.pt", "net.onnx")]
    assert sigmas[0] == pytest.approx(sigmas[1])


def test_code_runs_where_it_is_trusted(folder: Path) -> None:
    torch.save(of(nn.utils.weight_norm), "whole.pt")
    assert measured(Path("whole.pt"), None, trust=True) == measured(Path("whole.pt"), None, trust=False)


def test_files_of_two_kinds_are_compared(folder: Path) -> None:
    net = of(torch.nn.utils.parametrizations.weight_norm)
    exported(net, torch.zeros(1, 3, 9), folder / "net.onnx", dynamo=False)
    torch.save(net.state_dict(), "net.pt")
    torch.save(of(nn.utils.weight_norm).state_dict(), "hooks.pt")
    assert compared(Path("net.pt"), None, Path("hooks.pt"), trust=False).equal == 4
    for pair in (("net.onnx", "net.pt"), ("net.pt", "net.onnx")):
        found = compared(Path(pair[0]), None, Path(pair[1]), trust=False)
        # onnxruntime may round the norm otherwise, and biases do not count
        assert found.compared == 2
        assert all(each.change is not None and each.change < 1e-6 for each in found.differing)


def test_what_there_is_to_compare_with_is_looked_for_at_once(folder: Path) -> None:
    require_other(None)
    with pytest.raises(OptionError, match="--against is '-'"):
        require_other(Path("-"))
    with pytest.raises(CheckpointError, match=r"none\.pt"):
        require_other(Path("none.pt"))
