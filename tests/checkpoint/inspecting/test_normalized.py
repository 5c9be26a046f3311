"""What inspecting says without the values agrees with what folding, which may look at them, makes of the same file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tests.checkpoint.layouts import twins
from tests.checkpoint.layouts.grouping import image, run_through
from tests.checkpoint.layouts.test_parametrization import Pair
from tests.checkpoint.layouts.test_projects import PROJECTS, state_in, trained
from wnconvert.checkpoint import StateDictSummary, apply, fold, inspect, load, save
from wnconvert.checkpoint.inspecting.normalized import NormalizedWeight, normalized_weights
from wnconvert.checkpoint.inspecting.without_torch import inspect_without_torch
from wnconvert.checkpoint.layout import LAYOUTS, find_groups


def agree(state: dict[str, Tensor]) -> int:
    torch.manual_seed(0)
    found = {each.stem: each for each in found_in(state) if each.layout and LAYOUTS.get(each.layout).api != "hook"}
    groups = {group.stem: group for group in find_groups(state) if LAYOUTS.get(group.layout).api != "hook"}
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
    transposed = {"u0": torch.ones(1, 7), "sv0": torch.ones(1), "u1": torch.ones(1, 7), "sv1": torch.ones(1)}
    assert agree({"weight": torch.ones(5, 7), **transposed}) == 1
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


def test_shapes_that_do_not_fit_together() -> None:
    one, two, three = torch.ones(4, 3), torch.ones(2), torch.ones(3)
    assert agree({"weight_bar": one, "weight_u": two, "weight_v": three}) == 1
    assert agree({"weight": one, "u0": torch.ones(1, 2), "sv0": torch.ones(1)}) == 1
    assert agree({"weight": one, "weight_orig": one, "weight_u": two}) == 1
    assert agree({"weight": one.T, "weight_orig": one, "weight_u": torch.ones(4)}) == 0
    prefix = "parametrizations.weight"
    assert agree({f"{prefix}.original": one, f"{prefix}.0._u": two, f"{prefix}.0._v": three}) == 1
    assert agree({f"{prefix}.original0": two, f"{prefix}.original1": one}) == 1


def test_it_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from wnconvert.checkpoint.inspecting.normalized import normalized_weights\n"
        "prefix = 'parametrizations.weight.original'\n"
        "print(normalized_weights({prefix + '0': (2, 1), prefix + '1': (2, 3)}, {}).found[0].kept)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(0,)\n"


@pytest.mark.parametrize("name", ["HiFi-GAN", "HiFi-GAN MSD"])
def test_inspect_says_the_same_with_and_without_torch(name: str, tmp_path: Path) -> None:
    model, _, _ = trained(name, "parametrization")
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    summary = both(path)
    assert list(summary.layouts) == ["parametrization"]
    assert (summary.plain, summary.unknown) == ((), ())
    folded = fold(load(path)).checkpoint.content
    assert summary.saved == summary.bytes - sum(tensor.numel() * tensor.element_size() for tensor in folded.values())


def both(path: Path) -> StateDictSummary:
    """What inspecting says, with torch and without."""
    (summary,) = inspect(load(path))
    seen = inspect_without_torch(path)
    assert seen is not None
    assert seen[0] == summary
    return summary


def weight_normed(api: object) -> nn.Module:
    convs = [api.weight_norm(nn.Conv1d(4, 6, 3)), api.weight_norm(nn.Conv1d(6, 6, 5), dim=2)]
    return nn.Sequential(*convs, api.weight_norm(nn.Conv1d(6, 6, 3), dim=None), api.weight_norm(nn.Linear(6, 2)))


def spectral_normed(api: object) -> nn.Module:
    layers = [api.spectral_norm(nn.Conv2d(3, 5, 2)), api.spectral_norm(nn.ConvTranspose2d(3, 5, 2))]
    return nn.Sequential(*layers, api.spectral_norm(nn.Linear(6, 6)))


PARTED = {
    "weight_norm": (weight_normed, {"weight_norm": {"0": 2, "2": 1, "none": 1}}),
    "spectral_norm": (spectral_normed, {"spectral_norm": {"0": 1, "1": 1, "unknown": 1}}),
}


@pytest.mark.parametrize("api", [nn.utils, parametrizations], ids=["hook", "parametrization"])
@pytest.mark.parametrize("scheme", PARTED)
def test_the_kept_dims_are_those_that_the_shapes_show(scheme: str, api: object, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, kept = PARTED[scheme]
    path = tmp_path / "model.safetensors"
    save_file(build(api).state_dict(), path)
    summary = both(path)
    assert summary.kept == kept
    assert summary.schemes == {scheme: sum(kept[scheme].values())}
    assert summary.unknown == ()
    known = {each.stem: each for each in found_in(load(path).content)}
    for group in find_groups(load(path).content):
        assert known[group.stem].kept in (None, group.kept), "which may look at values too"


def found_in(state: dict[str, Tensor]) -> tuple[NormalizedWeight, ...]:
    return normalized_weights({key: tuple(tensor.shape) for key, tensor in state.items()}, {}).found


OTHERS: dict[str, tuple[Callable[[], nn.Module], dict[str, dict[str, int]]]] = {
    "fairseq": (lambda: twins.PositionalConvolution(twins.Api("hook")), {"weight_norm": {"2": 1}}),
    "MSD": (
        lambda: twins.Discriminators(twins.Api("hook")),
        {"spectral_norm": {"0": 3}, "weight_norm": {"0": 3}},
    ),
    "weight_bar": (lambda: twins.SpectralNormBar(nn.Conv2d(3, 4, 3)), {"spectral_norm": {"0": 1}}),
    "BigGAN": (lambda: twins.BigGanConv(3, 4, 3), {"spectral_norm": {"0": 1}}),
    "mmcv": (lambda: twins.ConvAws(3, 4, 3), {"weight_standardization": {"0": 1}}),
    "stack": (
        lambda: parametrizations.spectral_norm(parametrizations.weight_norm(nn.Linear(3, 4))),
        {"weight_norm+spectral_norm": {"0": 1}},
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_kept_dims_in_other_layouts(name: str, tmp_path: Path) -> None:
    build, kept = OTHERS[name]
    path = tmp_path / "model.safetensors"
    save_file(build().state_dict(), path)
    assert both(path).kept == kept


def test_what_the_file_records_comes_first(tmp_path: Path) -> None:
    path, converted = tmp_path / "plain.safetensors", tmp_path / "converted.safetensors"
    save_file({"a.weight": torch.randn(4, 4), "b.weight": torch.randn(3, 5, 2)}, path)
    for scheme, dim, kept in (("unit_norm", 1, "1"), ("spectral_norm", 0, "0"), ("weight_norm", None, "none")):
        save(apply(load(path), scheme, dim=dim).checkpoint, converted, source=path, force=True)
        assert both(converted).kept == {scheme: {kept: 2}}
    bare = {key: tensor.clone() for key, tensor in apply(load(path), "unit_norm", dim=1).checkpoint.content.items()}
    save_file(bare, converted)
    assert both(converted).kept == {"unit_norm": {"unknown": 2}}


def test_parts_that_do_not_fit_together_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    whole = torch.ones(4, 3)
    odd = {
        "vector.weight_g": torch.ones(4),
        "vector.weight_v": torch.ones(4, 4),
        "rank.weight_orig": whole,
        "rank.weight_u": torch.ones(4),
        "rank.weight_v": whole.clone(),
        "fine.weight_g": torch.ones(4, 1),
        "fine.weight_v": whole.clone(),
    }
    save_file(odd, path)
    summary = both(path)
    assert (summary.unknown, summary.kept) == (("rank.weight", "vector.weight"), {"weight_norm": {"0": 1}})
    assert summary.layouts == {"weight_norm_hook": 1}
    refused = {group.stem for group in find_groups(load(path).content) if group.scheme is None}
    assert refused == {"rank.weight", "vector.weight"}
