"""Any file into any model: what the model computes then, and what stays as it was."""

from __future__ import annotations

import itertools

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

import wnconvert
from tests.loading.conftest import FORMS, SPECTRAL, X, output, plain, values
from wnconvert import checkpoint
from wnconvert.checkpoint import Checkpoint, LoadReport, apply, fold, load_into
from wnconvert.errors import CheckpointError, KindError, OptionError


@pytest.mark.parametrize(("source", "target"), list(itertools.product(FORMS, FORMS)))
def test_a_model_of_any_form_computes_what_the_saved_one_did(tmp_path, source, target):
    saved, model = FORMS[source](1), FORMS[target](2)
    torch.save(saved.state_dict(), tmp_path / "a.pt")
    before = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    report = load_into(model, tmp_path / "a.pt")
    assert report.exact
    assert {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()} == before
    expected = output(saved)
    for _ in range(2):
        assert torch.equal(output(model), expected)
    assert torch.equal(output(model, training=True), output(saved, training=True))
    assert torch.equal(output(model), output(saved))


@pytest.mark.parametrize("form", FORMS)
def test_what_torch_loads_by_itself_is_loaded_with_the_same_bits(form):
    saved, model, same = FORMS[form](1), FORMS[form](2), FORMS[form](2)
    report = load_into(model, Checkpoint(saved.state_dict(), "torch_zip"))
    same.load_state_dict(saved.state_dict(), strict=True)
    assert report.counts.keys() == {"as is"}
    assert {key for each in report.loaded for key in each.keys} == same.state_dict().keys()
    for (name, own), other in zip(model.state_dict().items(), same.state_dict().values(), strict=True):
        assert torch.equal(own, other), name


@pytest.mark.parametrize(("source", "target"), list(itertools.product([*SPECTRAL, "plain"], [*SPECTRAL, "plain"])))
def test_spectral_norms_keep_their_vectors(source, target):
    trained = SPECTRAL.get(source, SPECTRAL["hook"])(1).eval()
    expected = output(trained)
    content = trained.state_dict()
    if source == "plain":
        content = fold(Checkpoint(content, "torch_zip")).checkpoint.content
    model = plain(2) if target == "plain" else SPECTRAL[target](2)
    report = load_into(model, Checkpoint(content, "torch_zip"))
    assert report.exact
    assert torch.equal(output(model), expected)
    if source == target != "plain":
        assert torch.equal(output(model, training=True), output(trained, training=True))


def test_the_model_says_which_dim_a_file_leaves_open():
    def square(norm, dim=None):  # type: ignore[no-untyped-def]
        torch.manual_seed(0)
        return norm(nn.Linear(4, 4)) if dim is None else norm(nn.Linear(4, 4), dim=dim)

    never_run = square(nn.utils.spectral_norm, 1)
    content = Checkpoint(never_run.state_dict(), "torch_zip")
    model = square(parametrizations.spectral_norm, 1)
    load_into(model, content)
    expected = never_run.eval()(torch.eye(4))
    assert torch.equal(model.eval()(torch.eye(4)), expected)
    with pytest.raises(CheckpointError, match=r"'weight' its parts do not show the kept dim .*--dim"):
        load_into(nn.Linear(4, 4), content)
    folded = nn.Linear(4, 4)
    load_into(folded, content, dim=1)
    assert torch.equal(folded(torch.eye(4)), expected)


def test_a_weight_that_a_spectral_norm_cannot_hold_is_refused():
    model = SPECTRAL["parametrization"](0)
    before = values(model)
    with pytest.raises(CheckpointError, match=r"cannot hold: '0.weight' has a largest singular value of "):
        load_into(model, Checkpoint(plain(1).state_dict(), "torch_zip"))
    assert all(torch.equal(before[name], tensor) for name, tensor in values(model).items())
    with pytest.raises(CheckpointError, match=r"nothing was loaded \(a model without .*: wnconvert.fold\(model\)\)"):
        load_into(model, Checkpoint(plain(1).state_dict(), "torch_zip"))


@pytest.mark.parametrize("form", ["plain", "hook", "parametrization", "in place", "graph", "wrapped"])
@pytest.mark.parametrize("damage", ["missing", "left", "shape", "fails"])
def test_all_or_nothing(form, damage, monkeypatch):
    model, content = FORMS[form](2), dict(FORMS["parametrization"](1).state_dict())
    if damage == "missing":
        del content["4.parametrizations.weight.original0"], content["4.parametrizations.weight.original1"]
        match = r"lacks: '.*4\..*'; nothing was loaded"
    elif damage == "left":
        content["5.weight"] = torch.ones(3)
        match = "has more than the model: '5.weight'; nothing was loaded"
    elif damage == "shape":
        content["3.bias"] = torch.ones(6)
        match = r"has other shapes: '.*3.bias' is \(6,\), but \(5,\) in the model; nothing was loaded"
    else:
        content["3.bias"] = content["3.bias"] + 1

        def fail(*args: object, **kwargs: object) -> None:
            next(iter(model.parameters())).data.zero_()
            raise RuntimeError("no room")

        monkeypatch.setattr(model, "load_state_dict", fail)
        match = r"the model refuses what fits it \(RuntimeError: no room\); nothing was loaded"
    before, expected = values(model), output(model)
    with pytest.raises(CheckpointError, match=match):
        load_into(model, Checkpoint(content, "torch_zip"))
    assert all(torch.equal(before[name], tensor) for name, tensor in values(model).items())
    assert torch.equal(output(model), expected)


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.float16, torch.float32)], ids=str)
@pytest.mark.parametrize(("source", "target"), list(itertools.product(["plain", "hook"], ["plain", "parametrization"])))
def test_the_model_keeps_its_dtypes_and_the_report_says_what_rounding_did(dtypes, source, target):
    saved, model = FORMS[source](1).to(dtypes[0]), FORMS[target](2).to(dtypes[1])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    report = load_into(model, Checkpoint(saved.state_dict(), "torch_zip"))
    floating = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floating} == {dtypes[1]}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    weights = {each.name: each.max_abs_error for each in report.loaded}
    folded = wnconvert.fold(model).model.state_dict()
    wanted = wnconvert.fold(saved).model.state_dict()
    for name in ("0.weight", "3.weight", "4.weight"):
        error = float((folded[name].double() - wanted[name].double()).abs().max())
        assert weights[name] == pytest.approx(error, rel=1e-6, abs=0), name
    assert (report.max_abs_error > 0) is not report.exact


def test_ties_stay_and_a_dropped_name_is_filled_in(tmp_path):
    def tied() -> nn.ModuleDict:
        net = nn.ModuleDict({"embed": nn.Embedding(7, 4), "head": nn.Linear(4, 7, bias=False)})
        net["head"].weight = net["embed"].weight
        return net

    model, weight = tied(), torch.randn(7, 4)
    save_file({"embed.weight": weight}, tmp_path / "a.safetensors")
    report = load_into(model, tmp_path / "a.safetensors")
    assert report.counts == {"as is": 1, "tied": 1}
    assert model["head"].weight is model["embed"].weight
    assert torch.equal(model["head"].weight, weight)
    other = {"embed.weight": weight, "head.weight": weight + 1}
    with pytest.raises(CheckpointError, match=r"'head.weight' is the same tensor as 'embed.weight' in the model, but"):
        load_into(model, Checkpoint(other, "torch_zip"))
    assert torch.equal(model["head"].weight, weight)


def test_a_place_in_a_file_is_found_or_named(tmp_path):
    generator, ema = FORMS["hook"](1), FORMS["hook"](3)
    content = {"step": 3, "net": {"generator": generator.state_dict(), "critic": nn.Linear(2, 2).state_dict()}}
    torch.save(content, tmp_path / "one.pt")
    model = plain(2)
    assert load_into(model, tmp_path / "one.pt").place == "net.generator"
    assert torch.equal(output(model), output(generator))
    content["ema"] = {f"module.{key}": value for key, value in ema.state_dict().items()}
    torch.save(content, tmp_path / "two.pt")
    with pytest.raises(OptionError, match=r"at several places \('net.generator', 'ema'\); say which, by only"):
        load_into(model, tmp_path / "two.pt")
    load_into(model, tmp_path / "two.pt", only="ema")
    assert torch.equal(output(model), output(ema))
    with pytest.raises(OptionError, match=r"no tensor below 'emma' \(there are state dicts at: net.generator, "):
        load_into(model, tmp_path / "two.pt", only="emma")


def test_a_prefix_of_names_is_proposed_and_taken():
    saved, model = FORMS["hook"](1), plain(2)
    content = {f"generator.{key}": value for key, value in saved.state_dict().items()} | {"critic.bias": X}
    with pytest.raises(CheckpointError, match=r"below 'state_dict.generator': give only='state_dict.generator'"):
        load_into(model, Checkpoint({"state_dict": content}, "torch_zip"), only="state_dict")
    with pytest.raises(CheckpointError, match=r"give only='state_dict.generator'"):
        load_into(model, Checkpoint({"state_dict": content}, "torch_zip"))
    load_into(model, Checkpoint({"state_dict": content}, "torch_zip"), only="state_dict.generator")
    assert torch.equal(output(model), output(saved))


def test_dicts_of_modules_are_one_state_dict():
    saved, model = FORMS["hook"](1), plain(2)
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in saved.state_dict().items():
        groups.setdefault(key[0], {})[f"module.{key[2:]}"] = value
    load_into(model, Checkpoint(groups, "torch_zip"))
    assert torch.equal(output(model), output(saved))


def test_hooks_have_composed_their_weights_before_the_next_forward():
    model = FORMS["hook"](2)
    saved = FORMS["parametrization"](1)
    load_into(model, Checkpoint(saved.state_dict(), "torch_zip"))
    assert torch.equal(model[0].weight, saved[0].weight)
    assert model[0].weight.requires_grad
    model(X).sum().backward()
    assert model[0].weight_g.grad is not None


def test_recurrent_and_other_weights_with_names_of_their_own():
    def net(seed: int, norm: object = None) -> nn.Module:
        torch.manual_seed(seed)
        rnn = nn.LSTM(3, 4)
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0") if norm else ():
            norm(rnn, name)  # type: ignore[operator]
        return rnn

    x = torch.randn(5, 1, 3)
    saved = net(1, weight_norm)
    expected = saved(x)[0]
    for norm in (None, weight_norm, parametrizations.weight_norm):
        model = net(2, norm)
        report = load_into(model, Checkpoint(saved.state_dict(), "torch_zip"))
        assert report.exact
        torch.testing.assert_close(model(x)[0], expected)


def test_inference_tensors_are_loaded():
    saved = FORMS["hook"](1)
    expected = output(saved)
    with torch.inference_mode():
        model = plain(2)
        inside = FORMS["parametrization"](2)
        load_into(inside, Checkpoint(saved.state_dict(), "torch_zip"))
    load_into(model, Checkpoint(saved.state_dict(), "torch_zip"))
    normal = FORMS["parametrization"](3)
    with torch.inference_mode():
        load_into(normal, Checkpoint(saved.state_dict(), "torch_zip"))
        for each in (model, inside, normal):
            assert torch.equal(output(each), expected)
    assert not any(parameter.is_inference() for parameter in normal.parameters())
    normal(X).sum().backward()


def test_what_the_file_records_counts_for_more_than_its_keys():
    one, model = FORMS["plain"](1), FORMS["hook"](2)
    source = apply(Checkpoint(one.state_dict(), "torch_zip"), wnconvert.WeightNorm(p=1)).checkpoint
    report = load_into(model, source)
    assert report.counts["folded and split"] == 3
    assert torch.equal(output(model), output(one))
    ours = wnconvert.apply(plain(3), wnconvert.WeightNorm(p=1)).model
    assert load_into(ours, source).counts == {"as is": 10}
    assert torch.equal(output(ours), output(one))
    unrecorded = Checkpoint(source.content, "torch_zip")
    (note,) = load_into(ours, unrecorded).notes
    assert note.startswith("the file does not record the options of weight_norm; they were taken to be those of the mo")


def test_what_nothing_shows_how_to_split_is_refused():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight_g, self.weight_v = nn.Parameter(torch.ones(3, 1)), nn.Parameter(torch.ones(3, 2))

    with pytest.raises(CheckpointError, match=r"'weight' nothing shows how the model composes it"):
        load_into(Own(), Checkpoint({"weight": torch.ones(3, 2)}, "torch_zip"))
    model = Own()
    load_into(model, Checkpoint({"weight_g": torch.zeros(3, 1), "weight_v": torch.zeros(3, 2)}, "torch_zip"))
    assert not model.weight_v.any()


@pytest.mark.parametrize("container", ["safetensors", "folder", "module"])
def test_any_container(tmp_path, container):
    saved, model = FORMS["hook"](1), FORMS["parametrization"](2)
    path = tmp_path / "model"
    if container == "module":
        torch.save(saved, path)  # its classes are not needed to read it
    elif container == "folder":
        path.mkdir()
        save_file(saved.state_dict(), path / "model.safetensors")
    else:
        save_file(saved.state_dict(), path)
    report = load_into(model, path)
    assert report.counts["respelled"] == 3
    assert torch.equal(output(model), output(saved))


def test_models_that_cannot_be_loaded_into():
    with pytest.raises(KindError, match="a dict is no module"):
        load_into({}, Checkpoint({}, "torch_zip"))  # type: ignore[arg-type]
    with pytest.raises(KindError, match="'weight' of the model is not initialized yet; run the model once"):
        load_into(nn.LazyLinear(3), Checkpoint({"weight": X}, "torch_zip"))
    with pytest.raises(KindError, match="'weight' of the model is on the meta device"):
        load_into(nn.Linear(3, 3, device="meta"), Checkpoint({"weight": X}, "torch_zip"))
    with pytest.raises(CheckpointError, match="the checkpoint holds no dict of tensors"):
        load_into(nn.Linear(3, 3), Checkpoint({"epoch": 3}, "torch_zip"))


def test_names_are_told_up_to_a_number():
    content = {f"{index}.extra": torch.ones(1) for index in range(9)}
    with pytest.raises(CheckpointError) as caught:
        load_into(nn.Identity(), Checkpoint(content, "torch_zip"))
    assert "'4.extra' and 4 more; nothing was loaded" in str(caught.value)


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
)  # what torch.compile imports
@pytest.mark.parametrize("wrapper", ["compile", "DDP"])
def test_wrapped_models_are_loaded_in_their_wrappers(wrapper):
    saved, inner = FORMS["hook"](1), FORMS["parametrization"](2)
    if wrapper == "compile":
        load_into(torch.compile(inner), Checkpoint(saved.state_dict(), "torch_zip"))
    else:
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        try:
            wrapped = nn.parallel.DistributedDataParallel(inner)
            load_into(wrapped, Checkpoint(saved.state_dict(), "torch_zip"))
        finally:
            torch.distributed.destroy_process_group()
    assert torch.equal(output(inner), output(saved))


def test_the_report_is_public_and_prints():
    saved, model = FORMS["hook"](1), FORMS["parametrization"](2)
    report = checkpoint.load_into(model, Checkpoint(saved.state_dict(), "torch_zip"))
    assert isinstance(report, LoadReport)
    assert str(report).splitlines() == [
        "3 respelled, 7 as is",
        "  0.weight: respelled",
        "  3.weight: respelled",
        "  4.weight: respelled",
    ]
