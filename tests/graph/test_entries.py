"""Tensors by name and by owner, and edits that keep their order."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from wnconvert.graph.entries import Edits, Entries, has_attribute, held_tensors, locate
from wnconvert.torch_private import transient_of


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.full((2,), float(value))) for value in (1, 2, 3))
        self.register_buffer("d", torch.zeros(2))
        self.register_buffer("e", torch.ones(2), persistent=False)
        self.register_parameter("absent", None)


def test_a_tensor_is_known_by_every_name_and_by_each_owner_once() -> None:
    layer = Layer()
    model = nn.ModuleDict({"x": layer, "y": layer, "z": Layer()})
    model["z"].b = layer.a
    entries = Entries(model)
    assert [name for name, tensor in entries if tensor is layer.a] == ["x.a", "y.a", "z.b"]
    # the same module under another name is no second owner
    assert [owner.fqn for owner in entries.owners(layer.a)] == ["x.a", "z.b"]
    assert "x.absent" not in entries.tensors
    assert entries.owners(torch.ones(2)) == []


def test_what_is_held_in_attributes_and_containers_is_found() -> None:
    class Gone:
        pass

    model = nn.Sequential(Layer())
    plain, listed, keyed = torch.ones(1), torch.ones(2), torch.ones(3)
    model.plain, model.listed, model.keyed = plain, [listed, None, "text"], {"k": keyed}
    model.__dict__["dead"] = weakref.proxy(Gone())
    found = [(name, id(tensor)) for name, tensor in held_tensors(model)]
    assert {("plain", id(plain)), ("listed", id(listed)), ("keyed", id(keyed))} <= set(found)
    assert ("0.d", id(model[0].d)) in found


def test_new_tensors_stand_where_the_first_of_the_old_stood() -> None:
    layer, edits = Layer(), Edits()
    g, v = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2))
    edits.replace(layer, ["c", "a"], {"c_g": g, "c_v": v})
    assert hasattr(layer, "c")
    edits.commit()
    assert [name for name, _ in layer.named_parameters()] == ["b", "c_g", "c_v"]
    assert layer.c_g is g
    assert not hasattr(layer, "a")


@pytest.mark.parametrize("persistent", [True, False])
def test_a_buffer_takes_the_place_of_a_buffer_and_is_as_persistent_as_was_said(persistent) -> None:
    layer, edits = Layer(), Edits()
    edits.replace(layer, ["d"], {"new": torch.ones(2)}, persistent=persistent)
    edits.commit()
    assert [name for name, _ in layer.named_buffers()] == ["new", "e"]
    assert ("new" in layer.state_dict()) is persistent
    assert "e" not in layer.state_dict()


def test_a_buffer_that_becomes_a_parameter_is_part_of_the_state_dict() -> None:
    layer, edits = Layer(), Edits()
    edits.replace(layer, ["e"], {"e": nn.Parameter(torch.ones(2))})
    edits.commit()
    assert isinstance(layer.e, nn.Parameter)
    assert list(layer.state_dict()) == ["a", "b", "c", "e", "d"]
    # or a buffer that is given that name later would be left out
    assert transient_of(layer) == set()


def test_what_replaces_nothing_comes_first_of_its_kind_if_it_is_a_parameter() -> None:
    layer, edits = Layer(), Edits()
    edits.insert(layer, {"x": nn.Parameter(torch.ones(2)), "y": nn.Parameter(torch.ones(2))})
    edits.insert(layer, {"z": torch.ones(2)}, persistent=False)
    edits.commit()
    assert [name for name, _ in layer.named_parameters()] == ["x", "y", "a", "b", "c"]
    assert [name for name, _ in layer.named_buffers()] == ["d", "e", "z"]
    assert "z" not in layer.state_dict()


def test_attributes_are_located_by_their_dotted_name() -> None:
    model = nn.Sequential(Layer())
    model[0].list = "plain"
    assert locate(model, "0.a") is model[0].a
    assert locate(model, "0.a.data").data_ptr() == model[0].a.data_ptr()
    assert locate(model, "0") is model[0]
    assert [locate(model, missing) for missing in ("0.q", "0.q.r", "1.a", "0.absent")] == [None] * 4
    for name in ("a", "d", "list", "forward"):
        assert has_attribute(model[0], name)
    assert not has_attribute(model[0], "q")
