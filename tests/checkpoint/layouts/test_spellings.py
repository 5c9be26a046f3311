"""What names and shapes say agrees with what the layouts say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tests.checkpoint.layouts import twins
from tests.checkpoint.layouts.test_layouts import Pair, image, run_through
from tests.checkpoint.layouts.test_projects import PROJECTS, state_in, trained
from wnconvert.checkpoint import fold, inspect, load
from wnconvert.checkpoint.glance import glance
from wnconvert.checkpoint.layout import find_groups
from wnconvert.checkpoint.spellings import spelled

HOOKS = ("weight_norm_hook", "spectral_norm_hook")


def agree(state: dict[str, Tensor]) -> int:
    torch.manual_seed(0)
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    found = {each.stem: each for each in spelled(shapes)}
    groups = {group.stem: group for group in find_groups(state) if group.layout not in HOOKS}
    assert list(found) == list(groups)
    for stem, group in groups.items():
        each = found[stem]
        assert (each.layout, each.scheme, set(each.keys)) == (group.layout, group.scheme, set(group.keys.values()))
        assert each.kept in (None, group.kept)
        lead = state[each.keys[0]]
        assert all(tensor.numel() <= lead.numel() for tensor in map(state.get, each.keys) if tensor is not None)
    return len(found)


@pytest.mark.parametrize("name", PROJECTS)
def test_parametrizations_of_every_project(name: str) -> None:
    model, checkpoint, _ = trained(name, "parametrization")
    assert agree(state_in(checkpoint.content, model)) > 0
    model, checkpoint, _ = trained(name, "hook")
    assert agree(state_in(checkpoint.content, model)) == 0


def test_the_layouts_of_other_software() -> None:
    assert agree(twins.SpectralNormBar(nn.Conv2d(3, 4, 3)).state_dict()) == 1
    assert agree(twins.BigGanConv(3, 4, 3).state_dict()) == 1
    assert agree(twins.ConvAws(3, 4, 3).state_dict()) == 1
    old = run_through(nn.utils.spectral_norm(nn.Conv2d(5, 6, 2)), image(5))
    old["weight"] = old["weight_orig"].clone()
    del old["weight_v"]
    assert agree(old) == 1


def test_stacks_and_what_nobody_knows() -> None:
    stacked = parametrizations.spectral_norm(parametrizations.weight_norm(nn.Linear(3, 4)))
    pair = nn.Linear(3, 4)
    parametrize.register_parametrization(pair, "weight", Pair(), unsafe=True)
    for module in (stacked, pair, parametrizations.orthogonal(nn.Linear(4, 4))):
        assert agree(module.state_dict()) == 1


def test_it_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from wnconvert.checkpoint.spellings import spelled\n"
        "prefix = 'parametrizations.weight.original'\n"
        "print(spelled({prefix + '0': (2, 1), prefix + '1': (2, 3)})[0].kept)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(0,)\n"


@pytest.mark.parametrize("name", ["HiFi-GAN", "HiFi-GAN MSD"])
def test_inspect_says_the_same_with_and_without_torch(name: str, tmp_path: Path) -> None:
    model, _, _ = trained(name, "parametrization")
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    (summary,) = inspect(load(path))
    seen = glance(path)
    assert seen is not None
    assert seen[0] == summary
    assert list(summary.layouts) == ["parametrization"]
    assert (summary.plain, summary.unknown) == ((), ())
    folded = fold(load(path)).checkpoint.content
    assert summary.saved == summary.bytes - sum(tensor.numel() * tensor.element_size() for tensor in folded.values())
