"""Graph modules load weights however they are spelled, strictly, and need nothing of ours for anything else."""

from __future__ import annotations

import copy
import io
import pickletools

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from tests.covering import pairwise
from tests.graph.snapshot import assert_same_outputs, outputs_of
from tests.graph.test_whole import pickled
from tests.helpers import label, variant_id, variants
from tests.models import WEIGHTS, build
from wnconvert import ApplyPass, FoldPass, Selection
from wnconvert.graph.copying import clone
from wnconvert.tracing.tracing import trace

each_preserving = pytest.mark.parametrize(
    "scheme", [scheme for scheme in variants() if scheme.preserving], ids=variant_id
)
X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


def applied(model, scheme, **options):
    model = trace(model)
    assert ApplyPass(scheme, **options).call(model).modified
    return model


def other(name):
    """Return a model of the kind of `build`, with other weights, and the same inputs."""
    model, inputs = build(name)
    for seed, parameter in enumerate(model.parameters()):
        torch.manual_seed(seed)
        nn.init.normal_(parameter)
    return model, inputs


@pytest.mark.parametrize(
    ("scheme", "way", "name"),
    pairwise(
        [scheme for scheme in variants() if scheme.preserving],
        ["itself", "deepcopy", "clone", "symbolic_trace"],
        ["conv", "transformer", "functional"],
        # torch's own tracing makes a transient buffer a key
        allowed=lambda scheme, way, name: (way, name) != ("symbolic_trace", "functional"),
    ),
    ids=label,
)
def test_a_plain_state_dict_loads_to_the_bit(name, way, scheme):
    model = build(name)[0]
    if way == "symbolic_trace":
        model = torch.fx.symbolic_trace(model)
    model = applied(model, scheme, dim=0)
    if way in ("deepcopy", "clone"):
        model = {"deepcopy": copy.deepcopy, "clone": clone}[way](model)
    plain, inputs = other(name)
    given = plain.state_dict()
    keys = list(given)
    assert model.load_state_dict(given, strict=True) == ([], [])
    assert list(given) == keys
    assert_same_outputs(outputs_of(model.eval(), inputs), outputs_of(plain, inputs))


@each_preserving
def test_its_own_state_dict_loads_as_before(scheme):
    model, twin = (applied(each("conv")[0], scheme, dim=0) for each in (build, other))
    assert model.load_state_dict(twin.state_dict(), strict=True) == ([], [])
    assert_same_outputs(outputs_of(model, build("conv")[1]), outputs_of(twin, build("conv")[1]))


def layers(api):
    torch.manual_seed(1)
    return nn.Sequential(api(nn.Linear(3, 4)), nn.ReLU(), api(nn.Linear(4, 3))).train()


@pytest.mark.parametrize("api", [weight_norm, parametrizations.weight_norm], ids=["hook", "parametrization"])
def test_torchs_weight_norm_loads(api):
    theirs = layers(api)
    model = applied(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)), "weight_norm")
    assert model.load_state_dict(theirs.state_dict(), strict=True) == ([], [])
    assert torch.equal(model(X), theirs(X))


@pytest.mark.parametrize("api", [spectral_norm, parametrizations.spectral_norm], ids=["hook", "parametrization"])
def test_torchs_spectral_norm_loads(api):
    theirs = layers(api)
    theirs(X)
    model = applied(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)), "spectral_norm")
    assert model.load_state_dict(theirs.state_dict(), strict=True) == ([], [])
    torch.testing.assert_close(model.eval()(X), theirs.eval()(X))


def test_a_part_of_a_larger_model_loads():
    model = nn.ModuleDict({"net": applied(nn.Sequential(nn.Linear(3, 4)), "weight_norm"), "head": nn.Linear(4, 2)})
    plain = nn.ModuleDict({"net": nn.Sequential(nn.Linear(3, 4)), "head": nn.Linear(4, 2)})
    model.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(model.net(X), plain.net(X))


def test_what_all_weights_share_is_that_of_all():
    model = applied(build("transformer")[0], "network_norm")
    plain, _ = other("transformer")
    model.load_state_dict(plain.state_dict(), strict=True)
    weights = [plain.get_parameter(name) for name in WEIGHTS["transformer"]]
    torch.testing.assert_close(model.network_g, torch.cat([weight.flatten() for weight in weights]).norm())


def test_of_some_weights_alone_nothing_is_known_that_all_share():
    model = applied(build("conv")[0], "network_norm")
    before = model.network_g.detach().clone()
    state = {"stem.weight": other("conv")[0].stem.weight}
    result = model.load_state_dict(state, strict=False)
    assert "network_g" in result.missing_keys
    assert torch.equal(model.network_g, before)
    assert torch.equal(model.stem.weight_network_v, state["stem.weight"])


def test_several_schemes_are_told_apart():
    model = build("conv")[0]
    model = applied(model, "weight_norm", selection=Selection(include=("stem", "conv1")))
    ApplyPass("unit_norm").call(model)
    ApplyPass("spectral_norm").call(model)
    model.load_state_dict(build("conv")[0].state_dict(), strict=True)


def test_a_weight_of_another_shape_is_an_error_as_ever():
    model = applied(nn.Sequential(nn.Linear(3, 4)), "weight_norm")
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(nn.Sequential(nn.Linear(3, 5)).state_dict(), strict=True)


def hooks(model):
    return list(model._load_state_dict_pre_hooks.values())


@pytest.mark.parametrize("way", [lambda model: model, copy.deepcopy, pickled], ids=["itself", "deepcopy", "pickle"])
def test_the_hook_goes_with_the_last_weight(way):
    model = way(applied(build("conv")[0], "weight_norm"))
    assert len(hooks(model)) == 1
    FoldPass(selection=Selection(include=("stem",))).call(model)
    if way is not pickled:
        assert len(hooks(model)) == 1
        model.load_state_dict(build("conv")[0].state_dict(), strict=True)
    FoldPass().call(model)
    assert hooks(model) == []
    model.load_state_dict(build("conv")[0].state_dict(), strict=True)


def test_hooks_of_others_stay():
    model = trace(build("conv")[0])
    model._register_load_state_dict_pre_hook(lambda *args: None)
    theirs = hooks(model)
    ApplyPass().call(model)
    FoldPass().call(model)
    assert hooks(model) == theirs


@pytest.mark.parametrize("whole", [False, True])
def test_a_pickle_names_nothing_of_ours_and_loads_what_it_has(whole):
    model = nn.Sequential(nn.Linear(3, 4))
    model = applied(model if whole else torch.fx.symbolic_trace(model), "weight_norm")
    file = io.BytesIO()
    torch.save(model, file, _use_new_zipfile_serialization=False)
    names = [argument for _, argument, _ in pickletools.genops(file.getvalue()) if isinstance(argument, str)]
    assert not any("wnconvert" in name for name in names)
    restored = pickled(model)
    restored.load_state_dict(model.state_dict(), strict=True)
    assert_same_outputs(outputs_of(restored, (X,)), outputs_of(model, (X,)))
    assert pickled(restored).state_dict().keys() == model.state_dict().keys()


def test_exported_graphs_load_plain_state_dicts():
    plain, inputs = build("conv")
    model = torch.export.export(plain, inputs).module()
    keys = list(model.state_dict())
    assert ApplyPass().call(model).modified
    given, _ = other("conv")
    model.load_state_dict({key: value for key, value in given.state_dict().items() if key in keys}, strict=True)
    assert_same_outputs(outputs_of(model, inputs), outputs_of(given, inputs))
