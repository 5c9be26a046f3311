"""Modules that stay what they are while their weights are composed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm as hook_weight_norm

import wnconvert
from tests.helpers import bits_equal, variant_id, variants
from tests.modules.making import Untraceable, converted_in_place
from wnconvert.modules.inplace import apply_in_place, fold_in_place
from wnconvert.modules.normalized import normalizations
from wnconvert.scheme import Scheme, resolve_scheme

RECURRENT = [
    lambda: nn.RNN(3, 4, 2, nonlinearity="relu"),
    lambda: nn.LSTM(3, 4, 2, bidirectional=True),
    pytest.param(
        lambda: nn.LSTM(3, 4, proj_size=2),
        marks=pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    ),
    lambda: nn.GRU(3, 4, batch_first=True),
]
CELLS = [lambda: nn.RNNCell(3, 4), lambda: nn.LSTMCell(3, 4), lambda: nn.GRUCell(3, 4)]


INDEX = torch.tensor([[0, 1, 2], [3, 4, 0]])


def forward(module: nn.Module) -> Tensor:
    shape = (2, 3) if isinstance(module, nn.RNNCellBase) else (5, 2, 3)
    result = module(torch.linspace(-1, 1, 6 if len(shape) == 2 else 30).reshape(shape))
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scheme", [s for s in variants() if s.preserving], ids=variant_id)
def test_outputs_are_bit_identical_where_the_scheme_preserves(scheme: Scheme, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)).to(dtype).eval()
    converted = converted_in_place(copy.deepcopy(model), scheme)
    x = torch.linspace(-1, 1, 8, dtype=dtype).reshape(2, 4)
    assert torch.equal(converted(x), model(x))


@pytest.mark.parametrize("scheme", variants(), ids=variant_id)
def test_fold_gives_what_reading_gave(scheme: Scheme) -> None:
    model = converted_in_place(nn.Sequential(nn.Linear(4, 6), nn.Conv1d(2, 4, 3)), scheme).eval()
    read = [module.weight.detach().clone() for module in model]
    fold_in_place(model, wnconvert.Selection())
    assert all(bits_equal(module.weight, weight) for module, weight in zip(model, read, strict=True))
    assert [type(module) for module in model] == [nn.Linear, nn.Conv1d]


@pytest.mark.parametrize("make", RECURRENT + CELLS)
@pytest.mark.parametrize("grad", [False, True])
def test_recurrent_modules_are_exact_and_come_back(make: object, grad: bool) -> None:
    torch.manual_seed(0)
    module = make()  # type: ignore[operator]
    with torch.set_grad_enabled(grad):
        expected = forward(module)
        converted, report = wnconvert.apply(module)
        assert torch.equal(forward(converted), expected)
        folded, _ = wnconvert.fold(converted)
        assert torch.equal(forward(folded), expected)
    assert len(report.converted) == sum(name.startswith("weight") for name, _ in module.named_parameters())
    assert list(folded.state_dict()) == list(module.state_dict())
    assert type(folded) is type(module)


@pytest.mark.parametrize("make", RECURRENT + CELLS)
def test_each_part_of_a_recurrent_module_trains(make: object) -> None:
    module, _ = wnconvert.apply(make())  # type: ignore[operator]
    forward(module).square().sum().backward()
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None] == []


def test_recurrent_modules_can_be_moved_and_copied() -> None:
    module, _ = wnconvert.apply(nn.LSTM(3, 4))
    expected = forward(module)
    moved = copy.deepcopy(module).double().float()
    assert torch.equal(forward(moved), expected)
    assert isinstance(moved, nn.LSTM)


@pytest.mark.parametrize("same", [True, False])
def test_attention_is_truly_normalized(same: bool) -> None:
    sizes = {} if same else {"kdim": 3, "vdim": 5}
    torch.manual_seed(0)
    model = nn.MultiheadAttention(4, 2, batch_first=True, **sizes).eval()
    query, key, value = torch.randn(1, 3, 4), torch.randn(1, 3, 4 if same else 3), torch.randn(1, 3, 4 if same else 5)
    with torch.no_grad():
        expected = model(query, key, value)[0]
        converted, report = wnconvert.apply(model)
        assert torch.equal(converted(query, key, value)[0], expected)
        for entry in report.converted:
            changed = copy.deepcopy(converted)
            changed.get_parameter(f"{entry.fqn}_g").mul_(3)
            assert not torch.equal(changed(query, key, value)[0], expected), entry.fqn
    assert len(report.converted) == (2 if same else 4)


def test_the_fast_path_of_transformer_layers_reads_composed_weights() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    x = torch.randn(2, 3, 8)
    with torch.inference_mode():
        expected = model(x)
        converted, report = wnconvert.apply(model)
        assert torch.equal(converted(x), expected)
        converted.get_parameter("layers.1.linear2.weight_g").mul_(3)
        assert not torch.equal(converted(x), expected)
    assert len(report.converted) == 8


def test_an_untraceable_model_stays_the_object_it_was() -> None:
    model = Untraceable()
    converted, report = wnconvert.apply(model)
    assert type(converted).__name__ == "Untraceable"
    assert isinstance(converted, Untraceable)
    assert converted.generate() == "still here"
    assert converted.config == model.config
    assert torch.equal(converted(INDEX), model(INDEX))
    assert {entry.how for entry in report.converted} == {"in place"}
    assert "found by the classes of the modules: 'Untraceable' cannot be traced" in report.notes[0]
    assert isinstance(converted.conv, nn.Conv1d)
    assert converted.conv.weight.dtype == torch.float32
    assert converted.conv.weight.shape == (4, 4, 3)


def test_a_tied_weight_stays_tied_in_place() -> None:
    converted, report = wnconvert.apply(Untraceable(), dim=0)
    assert converted.head.weight_g is converted.embed.weight_g
    assert [entry.fqn for entry in report.converted] == ["embed.weight", "conv.weight"]
    folded, _ = wnconvert.fold(converted)
    assert folded.head.weight is folded.embed.weight


def test_what_no_class_explains_is_skipped_unless_named() -> None:
    _, report = wnconvert.apply(Untraceable())
    assert [(entry.fqn, entry.reason) for entry in report.skipped] == [
        ("scale", "nothing shows what reads it; give example_inputs, or include it by its full name")
    ]
    converted, report = wnconvert.apply(Untraceable(), selection=wnconvert.Selection(include=("scale",)))
    assert [entry.fqn for entry in report.converted] == ["scale"]
    assert "scale_g" in dict(converted.named_parameters())


def test_keys_are_those_of_the_graph() -> None:
    class Traceable(Untraceable):
        def forward(self, index: Tensor) -> Tensor:
            return self.head(self.conv(self.embed(index).transpose(1, 2)).transpose(1, 2)) * self.scale.sum()

    in_place, _ = wnconvert.apply(Untraceable())
    in_graph, report = wnconvert.apply(Traceable(), how="graph")
    assert {entry.how for entry in report.converted} == {"graph"}
    assert list(in_place.state_dict()) == list(in_graph.state_dict())


def test_state_dicts_load_into_either_of_torchs_apis() -> None:
    torch.manual_seed(0)
    model = Untraceable()
    converted, _ = wnconvert.apply(model, selection=wnconvert.Selection(include=("conv",)))
    expected = converted(INDEX)
    for api in (hook_weight_norm, parametrizations.weight_norm):
        other = Untraceable()
        api(other.conv)
        other.load_state_dict(converted.state_dict(), strict=True)
        assert torch.equal(other(INDEX), expected)


def test_applying_twice_changes_nothing() -> None:
    once, _ = wnconvert.apply(Untraceable())
    twice, report = wnconvert.apply(once)
    assert not report.modified
    assert all(entry.already for entry in report.skipped if entry.fqn != "scale")
    assert list(once.state_dict()) == list(twice.state_dict())


def test_folding_a_copy_leaves_the_original_as_it_was() -> None:
    converted, _ = wnconvert.apply(Untraceable())
    expected = converted(INDEX)
    duplicate = copy.deepcopy(converted)
    fold_in_place(duplicate, wnconvert.Selection())
    assert torch.equal(converted(INDEX), expected)
    assert torch.equal(duplicate(INDEX), expected)
    assert normalizations(converted.conv)
    assert not normalizations(duplicate.conv)


def test_a_shallow_copy_shares_the_parts() -> None:
    layer = converted_in_place(nn.Linear(2, 2))
    shallow = copy.copy(layer)
    assert shallow.weight_v is layer.weight_v
    assert isinstance(shallow, nn.Linear)


def test_folding_a_selection_keeps_the_rest_composed() -> None:
    converted, _ = wnconvert.apply(nn.LSTM(3, 4))
    expected = forward(converted)
    report = fold_in_place(converted, wnconvert.Selection(include=("weight_hh_l0",)))
    assert [entry.fqn for entry in report.converted] == ["weight_hh_l0"]
    assert list(normalizations(converted)) == ["weight_ih_l0"]
    assert torch.equal(forward(converted), expected)


def hooked(kind: str) -> nn.Linear:
    layer = nn.Linear(2, 2)
    if kind == "gradient":
        layer.weight.register_hook(lambda gradient: gradient * 2)
    else:
        layer.weight.register_post_accumulate_grad_hook(lambda parameter: None)
    return layer


@pytest.mark.parametrize("kind", ["gradient", "accumulated"])
def test_a_weight_with_gradient_hooks_is_left_alone(kind: str) -> None:
    model = nn.Sequential(hooked(kind), nn.Linear(2, 2))
    report = apply_in_place(model, resolve_scheme("weight_norm"), 0, wnconvert.Selection())
    assert [(entry.fqn, entry.reason) for entry in report.skipped] == [
        ("0.weight", "it has gradient hooks, which would be lost")
    ]
    assert [entry.fqn for entry in report.converted] == ["1.weight"]


def test_weights_that_share_memory_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 2))
    model[1].weight = nn.Parameter(model[0].weight.data.t())
    report = apply_in_place(model, resolve_scheme("weight_norm"), 0, wnconvert.Selection())
    assert [(entry.fqn, entry.reason) for entry in report.skipped] == [
        ("0.weight", "it shares memory with '1.weight', which is another tensor"),
        ("1.weight", "it shares memory with '0.weight', which is another tensor"),
    ]
    assert [entry.fqn for entry in report.converted] == ["2.weight"]


def test_weights_side_by_side_in_one_piece_of_memory_share_none() -> None:
    """As cuDNN wants those of a recurrent module."""
    model, memory = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.randn(8)
    for index, layer in enumerate(model):
        layer.weight.data = memory[4 * index : 4 * index + 4].view(2, 2)
    report = apply_in_place(model, resolve_scheme("weight_norm"), 0, wnconvert.Selection())
    assert len(report.converted) == 2


def test_nothing_is_an_inference_tensor() -> None:
    with torch.inference_mode():
        made_inside = nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 3))
    made_outside = nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 3))
    for model in (made_inside, made_outside):
        with torch.inference_mode():
            apply_in_place(model, resolve_scheme("spectral_norm"), 0, wnconvert.Selection(exclude=("*bias*",)))
        parts = [tensor for key, tensor in model.state_dict().items() if "weight" in key]
        assert len(parts) == 9
        assert not any(tensor.is_inference() for tensor in parts)
        with torch.inference_mode():
            fold_in_place(model, wnconvert.Selection())
        weights = [tensor for key, tensor in model.state_dict().items() if "weight" in key]
        assert len(weights) == 3
        assert not any(tensor.is_inference() for tensor in weights)


def test_a_frozen_weight_is_folded_frozen() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    fold_in_place(converted_in_place(model), wnconvert.Selection())
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, False, True, True]


def test_folding_one_of_two_tied_weights_folds_both() -> None:
    model = converted_in_place(Untraceable(), "unit_norm")
    report = fold_in_place(model, wnconvert.Selection(include=("head",)))
    assert [entry.fqn for entry in report.converted] == ["embed.weight"]
    assert model.head.weight is model.embed.weight


def test_what_another_class_has_covered_is_left_alone() -> None:
    layer = converted_in_place(nn.Linear(2, 2))
    nn.utils.parametrize.register_parametrization(layer, "bias", nn.Identity())
    assert [entry.reason for entry in fold_in_place(layer, wnconvert.Selection()).skipped] == [
        "its module became a ParametrizedLinear after it was converted; undo that first"
    ]
    nn.utils.parametrize.remove_parametrizations(layer, "bias")
    assert fold_in_place(layer, wnconvert.Selection()).modified
    assert type(layer) is nn.Linear
