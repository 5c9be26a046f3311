"""What kinds of models the conversions take, and what they say of the result."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import wnconvert

# what wraps a model, and what is compiled


class Wrapped(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, x):
        return self.inner(x)


@pytest.fixture
def distributed(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


WRAPPERS = {
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "DataParallel": nn.DataParallel,
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
}


@pytest.mark.usefixtures("distributed")
@pytest.mark.parametrize("options", [{}, {"inplace": True}, {"how": "graph"}], ids=str)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_model_is_refused_with_the_way_out(name, inside, options):
    model = nn.Linear(3, 3)
    wrapped = WRAPPERS[name](model)
    whole, where = (Wrapped(wrapped), "its module 'inner'") if inside else (wrapped, "it")
    with pytest.raises(wnconvert.KindError) as caught:
        wnconvert.apply(whole, **options)
    assert f"is not converted: {where} is wrapped already, by {name}" in str(caught.value)
    assert str(caught.value).endswith("apply to the plain model first, and wrap the result")
    assert type(model) is nn.Linear
    assert list(model.state_dict()) == ["weight", "bias"]
    rewrapped = WRAPPERS[name](wnconvert.apply(model).model)
    assert any(key.endswith("weight_g") for key in rewrapped.state_dict())


@pytest.fixture
def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of which kind depends on the version of torch
        return torch.jit.script(nn.Linear(3, 3))


@pytest.mark.parametrize("convert", [wnconvert.apply, wnconvert.fold, wnconvert.find_weighted_ops])
def test_compiled_code_is_refused_with_the_way_out(convert, scripted):
    with pytest.raises(wnconvert.KindError, match="compiled code; convert the module that it was compiled from"):
        convert(scripted)


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("how", ["module", "graph"])
def test_the_weights_of_a_compiled_part_are_in_the_report(how, inplace, scripted):
    model, x = nn.Sequential(nn.Linear(3, 3), scripted), torch.randn(2, 3)
    assert [op.fqn for op in wnconvert.find_weighted_ops(model)] == ["0.weight"]
    expected = model(x)
    converted, report = wnconvert.apply(model, how=how, inplace=inplace)
    assert [entry.fqn for entry in report.converted] == ["0.weight"]
    assert {entry.fqn: entry.reason for entry in report.skipped}["1.weight"] == (
        "the TorchScript module '1' holds it, whose code is fixed"
    )
    assert torch.equal(converted(x), expected)


# what a graph says of itself


class Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x):
        return self.inner(x) if x.sum() < 1e9 else x


def even(x):
    return x if x.shape[1] % 2 == 0 else F.pad(x, (0, 1))


class Padding(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x):
        return even(self.inner(x))


def test_a_graph_that_needs_wnconvert_says_so():
    report = wnconvert.apply(nn.Sequential(nn.Linear(3, 3), Deciding()), how="graph").report
    assert report.notes == (
        "1 weights are converted inside of modules that the graph calls: loading it needs wnconvert",
    )
    assert {entry.fqn: entry.how for entry in report.converted} == {
        "0.weight": "graph",
        "1.inner.weight": "opaque region",
    }
    assert report.notes[0] in str(report)


def test_a_graph_that_calls_functions_of_the_user_says_so():
    converted, report = wnconvert.apply(Padding(), how="graph")
    assert report.notes == ("it calls even, into which torch.fx would trace when it loads a pickle of the graph",)
    assert converted(torch.randn(2, 3)).shape == (2, 4)


def test_a_plain_graph_and_a_plain_module_have_nothing_to_say():
    assert wnconvert.apply(nn.Sequential(nn.Linear(3, 3)), how="graph").report.notes == ()
    assert wnconvert.apply(nn.Sequential(nn.Linear(3, 3))).report.notes == ()


def test_what_was_found_without_a_graph_is_told():
    (note,) = wnconvert.apply(Deciding()).report.notes
    assert note.startswith("found by the classes of the modules: 'Deciding' cannot be traced: ")


@pytest.mark.parametrize("convert", [wnconvert.apply, wnconvert.fold])
def test_a_model_without_a_graph_is_not_given_one(convert):
    with pytest.raises(wnconvert.TracingError, match="it takes a decision on a value") as caught:
        convert(Deciding(), how="graph")
    assert "how='module'" in str(caught.value)
