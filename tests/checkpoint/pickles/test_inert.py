"""Whole pickled modules, read as the state dicts that they would give, where their classes cannot be imported."""

from __future__ import annotations

from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.checkpoint.pickled import Config, assert_state_dict, glow, training_file, waveglow, without_weight_norm
from wnconvert.checkpoint import fold, inspect, load, migrate, save
from wnconvert.errors import CheckpointError, OptionError, UnsafePickleError

zipped = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@zipped
def test_a_module_of_unknown_classes_is_its_state_dict(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "waveglow.pt"
    model = training_file(path, zipped=zipped)
    with pytest.raises(UnsafePickleError, match=r"glow\.WaveGlow.*--state-dict.*--trust"):
        load(path)
    with pytest.raises(CheckpointError, match="glow"):
        load(path, trust=True)
    read = load(path, modules="state_dict")
    assert_state_dict(read.content["model"], model)
    assert list(read.content) == ["model", "iteration", "optimizer", "learning_rate"]
    assert (read.content["iteration"], read.content["learning_rate"]) == (580000, 1e-4)
    assert len(read.content["optimizer"]["state"]) == len(list(model.parameters()))
    assert read.notes == ("'model' is a pickled module 'glow.WaveGlow', read as its state dict, without its code",)


@zipped
def test_it_is_folded_to_the_weights_of_the_live_model(tmp_path: Path, zipped: bool) -> None:
    path, output = tmp_path / "waveglow.pt", tmp_path / "folded.pt"
    model = training_file(path, zipped=zipped)
    conversion = fold(load(path, modules="state_dict"))
    save(conversion.checkpoint, output, source=path)
    expected, actual = without_weight_norm(model), torch.load(output, weights_only=True)["model"]
    assert len(conversion.report.converted) == 12
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[key], expected[key]) for key in expected)
    assert "read as its state dict, without its code" in conversion.report.notes[0]
    assert conversion.checkpoint.notes == ()


@zipped
def test_pickles_of_old_modules_lack_attributes(tmp_path: Path, zipped: bool) -> None:
    new = ("_non_persistent_buffers_set", "_backward_pre_hooks", "_is_full_backward_hook", "padding_mode")
    with glow() as classes:
        model, expected = waveglow(classes), waveglow(classes)
        for module in model.modules():
            for name in new:
                module.__dict__.pop(name, None)
            module.__dict__.update({name: OrderedDict(module.__dict__[name]) for name in ("_parameters", "_modules")})
        torch.save(model, tmp_path / "old.pt", _use_new_zipfile_serialization=zipped)
    assert_state_dict(load(tmp_path / "old.pt", modules="state_dict").content, expected)


class Buffers(nn.Module):
    """Buffers that pass and buffers that stay, absent ones of both kinds, and two names for one module and weight."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.register_buffer("absent", None)
        self.register_parameter("nothing", None)
        self.register_buffer("staying", torch.arange(3))
        self.first = nn.Linear(2, 3)
        self.again = self.first
        self.tied = nn.Linear(2, 3)
        self.tied.weight = self.first.weight
        self.none = None
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)
        self.numbers = nn.ParameterList([torch.ones(1), torch.zeros(2)])
        self.named = nn.ParameterDict({"b": torch.ones(1), "a": torch.zeros(2)})
        self.layers = nn.ModuleDict({"z": nn.PReLU(), "a": nn.ModuleList([nn.ReLU(), nn.GELU(), nn.Conv1d(2, 2, 1)])})

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x)


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(print)
    module.register_forward_pre_hook(print)
    return module


MODULES: dict[str, Callable[[], nn.Module]] = {
    "buffers and ties": Buffers,
    "hooks": lambda: hooked(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid())),
    "spectral norm": lambda: nn.utils.spectral_norm(nn.Conv2d(2, 3, 3)),
    "weight norms of an LSTM": lambda: nn.utils.weight_norm(nn.LSTM(2, 3), "weight_hh_l0"),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.InstanceNorm1d(3, track_running_stats=True)),
    "attention": lambda: nn.TransformerEncoderLayer(4, 2, 8),
    "data parallel": lambda: nn.DataParallel(nn.Linear(2, 2)),
    "graph": lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU())),
    "half": lambda: nn.Linear(2, 2).to(torch.bfloat16),
    "channels last": lambda: nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last),
    "empty": nn.Identity,
}


@zipped
@pytest.mark.parametrize("kind", list(MODULES))
def test_state_dicts_are_those_of_torch(kind: str, tmp_path: Path, zipped: bool) -> None:
    module = MODULES[kind]()
    torch.save([module], tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    read = load(tmp_path / "a.pt", modules="state_dict")
    assert_state_dict(read.content[0], module)
    assert len(read.notes) == 1


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_modules_are_found_wherever_plain_data_lead_to_them(protocol: int, tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    content = {"a": [{"b": (module, 1)}], "c": module, "d": OrderedDict(e={"f": module}), 7: "g"}
    torch.save(content, tmp_path / "a.pt", pickle_protocol=protocol)
    read = load(tmp_path / "a.pt", modules="state_dict").content
    found = read["a"][0]["b"][0]
    assert_state_dict(found, module)
    assert read == {"a": [{"b": (found, 1)}], "c": found, "d": OrderedDict(e={"f": found}), 7: "g"}
    assert read["c"] is found
    assert read["d"]["e"]["f"] is found


def test_what_else_is_harmless_is_read_as_ever(tmp_path: Path) -> None:
    content = {
        "module": nn.Linear(2, 2),
        "args": Namespace(lr=0.1, path=Path("a")),
        "set": {1, 2},
        "numbers": [np.arange(3), np.ones((2, 2), np.float16), np.float64(2), np.array("text"), 1 + 2j, 1 << 100, b"b"],
        "dtype": (torch.float16, torch.device("cpu"), torch.Size([1])),
        "tensors": [torch.ones(2, 3).T, nn.Parameter(torch.ones(1)), torch.ones(3).to_sparse(), torch.ones(0)],
    }
    torch.save(content, tmp_path / "a.pt")
    read = load(tmp_path / "a.pt", modules="state_dict").content
    assert_state_dict(read.pop("module"), content.pop("module"))
    torch.save(content, tmp_path / "b.pt")
    plain = load(tmp_path / "b.pt").content
    assert repr(read) == repr(plain)
    assert [type(value) for value in read["tensors"]] == [type(value) for value in plain["tensors"]]


def test_a_file_without_modules_is_read_as_ever(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    read = load(tmp_path / "a.pt", modules="state_dict")
    assert torch.equal(read.content["a"], torch.ones(2))
    assert read.notes == ()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="nothing tells here what is mapped")
def test_state_dicts_of_modules_are_mapped(tmp_path: Path) -> None:
    torch.save(nn.Linear(100, 100), tmp_path / "a.pt")
    read = load(tmp_path / "a.pt", modules="state_dict")
    assert read.content
    assert f"{tmp_path}/a.pt" in Path("/proc/self/maps").read_text()


def test_a_model_folder_may_hold_one(tmp_path: Path) -> None:
    module = nn.utils.weight_norm(nn.Linear(2, 2))
    torch.save(module, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    assert_state_dict(load(tmp_path, modules="state_dict").content, module)


def test_modules_are_built_or_read_but_not_both(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(OptionError, match="one of the two"):
        load(tmp_path / "a.pt", modules="state_dict", trust=True)
    with pytest.raises(OptionError, match="modules is 'x'"):
        load(tmp_path / "a.pt", modules="x")


# what is no module


def with_config(path: Path, **more: Any) -> nn.Module:
    module = nn.utils.weight_norm(nn.Linear(2, 2))
    module.config = Config()  # inside of a module it does not matter
    torch.save({"model": module, **more}, path)
    return module


def test_other_objects_are_named_and_refused_where_they_would_be_written(tmp_path: Path) -> None:
    with_config(tmp_path / "a.pt", hparams=[{"config": Config()}])
    read = load(tmp_path / "a.pt", modules="state_dict")
    name = "'tests.checkpoint.pickled.Config'"
    assert read.notes[1:] == (f"'hparams.0.config' is an object of {name}, which its code alone can build",)
    assert [summary.path for summary in inspect(read)] == ["model"]
    for convert in (fold, lambda each: migrate(each, "parametrization")):
        with pytest.raises(UnsafePickleError, match=rf"'hparams\.0\.config' is an object of {name}.*--trust"):
            convert(read)


@pytest.mark.parametrize("place", [lambda c: {c}, lambda c: {c: 1}, lambda c: {(1, c): 1}, lambda c: Namespace(a=c)])
def test_other_objects_are_found_wherever_they_are(tmp_path: Path, place: Callable[[Config], Any]) -> None:
    with_config(tmp_path / "a.pt", x=place(Config()))
    with pytest.raises(UnsafePickleError, match=r"'x\..*' is an object of 'tests\.checkpoint\.pickled\.Config'"):
        fold(load(tmp_path / "a.pt", modules="state_dict"))


def test_other_objects_in_what_is_left_out_do_not_matter(tmp_path: Path) -> None:
    shapes = ((2,), (2, 1), (2, 2))
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(shape)) for shape in shapes], momentum=0.9).state_dict()
    optimizer["state"] = {
        number: {"momentum_buffer": torch.ones(shape), "schedule": Config()} for number, shape in enumerate(shapes)
    }
    module = with_config(tmp_path / "a.pt", optimizer=optimizer)
    content = fold(load(tmp_path / "a.pt", modules="state_dict")).checkpoint.content
    assert list(content) == ["model"]
    assert torch.equal(torch.as_tensor(content["model"]["weight"]), nn.utils.remove_weight_norm(module).weight)


def test_a_file_without_anything_to_convert_still_names_what_is_unknown(tmp_path: Path) -> None:
    torch.save({"model": Config()}, tmp_path / "a.pt")
    with pytest.raises(UnsafePickleError, match=r"'model' is an object of .*Config"):
        fold(load(tmp_path / "a.pt", modules="state_dict"))


def test_what_is_unknown_cannot_be_written(tmp_path: Path) -> None:
    torch.save({"model": Config()}, tmp_path / "a.pt")
    read = load(tmp_path / "a.pt", modules="state_dict")
    with pytest.raises(OSError, match=r"(?i)Config' can be written by its code alone"):
        save(read, tmp_path / "b.pt", source=tmp_path / "a.pt")
    assert not (tmp_path / "b.pt").exists()


class Hiding(nn.Linear):
    """A module whose pickle is not its attributes, like those of torch.ao.nn.quantized."""

    def __getstate__(self) -> object:
        return (self.weight,)


class Special(Tensor):
    """A tensor of a class that is not known."""


def special() -> nn.Module:
    module = nn.Linear(2, 2)
    module.register_buffer("mask", torch.ones(2, 2).as_subclass(Special))
    return module


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.Sequential(nn.ReLU(), Hiding(2, 2)),
            r"'model': its module '1' is an object of '.*Hiding', which hides",
        ),
        (lambda: nn.Sequential(special()), r"'model': its '0\.mask' is an object of '.*Special', not a plain tensor"),
    ],
)
def test_a_module_that_does_not_show_its_tensors_is_refused(
    tmp_path: Path, make: Callable[[], nn.Module], message: str
) -> None:
    torch.save({"model": make()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "a.pt", modules="state_dict")


def rename(module: nn.Module, entries: dict[str, Any], *_: object) -> None:
    """A hook that changes state dicts."""


def test_hooks_that_could_change_a_state_dict_are_named(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    module._register_state_dict_hook(rename)
    torch.save(module, tmp_path / "a.pt")
    assert load(tmp_path / "a.pt", modules="state_dict").notes[1] == (
        "the file has a hook 'tests.checkpoint.pickles.test_inert.rename', which did not change its state dict"
    )


def test_notes_do_not_go_on_forever(tmp_path: Path) -> None:
    torch.save([nn.Identity() for _ in range(500)], tmp_path / "a.pt")
    notes = load(tmp_path / "a.pt", modules="state_dict").notes
    assert len(notes) == 21
    assert notes[-1] == "and 480 more such objects"
