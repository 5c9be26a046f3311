"""What is said to load a converted file is what does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import wnconvert
from tests.checkpoint.conftest import checkpoint
from wnconvert.checkpoint import (
    FORMATS,
    LAYOUTS,
    Checkpoint,
    Conversion,
    apply,
    fold,
    fold_adapter,
    load,
    migrate,
    migrate_adapter,
    unfold,
)


def net(norm: Any = None) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.Conv1d(4, 4, 3))
    for layer in model if norm else ():
        norm(layer)
    return model


def said(conversion: Conversion) -> str:
    text = str(conversion.loads_into)
    assert text
    assert "\n" not in text
    assert json.loads(json.dumps(conversion.loads_into.to_dict()))["text"] == text
    return text


def test_a_folded_file_is_for_a_plain_model_and_the_code_loads_it(tmp_path: Path) -> None:
    source = net(weight_norm)
    conversion = fold(checkpoint({"generator": source.state_dict()}))
    assert said(conversion) == (
        "plain keys ('generator.0.weight'): build the model without weight norm, or call its remove_weight_norm() or "
        "wnconvert.fold(model) first; wnconvert.checkpoint.load_into(model, path) loads it into any; strict=False "
        "would leave the layers random; apply --like ORIGINAL gives the old keys back"
    )
    torch.save(conversion.checkpoint.content, tmp_path / "folded.pt")
    names: dict[str, Any] = {"wnconvert": wnconvert, "model": net(weight_norm), "path": tmp_path / "folded.pt"}
    exec("import wnconvert.checkpoint\n" + "\n".join(conversion.loads_into.code), names)
    x = torch.randn(1, 3, 9)
    assert list(names["model"].state_dict()) == list(net().state_dict())
    assert torch.equal(names["model"](x), source(x))


@pytest.mark.parametrize(("kind", "whom"), [(weight_norm, " loads it into any;"), (spectral_norm, " loads it;")])
def test_of_several_models_in_a_file_the_code_loads_one(tmp_path: Path, kind: Any, whom: str) -> None:
    source = _trained(net(kind)).eval()
    other = {name: torch.zeros_like(tensor) for name, tensor in net().state_dict().items()}
    conversion = fold(checkpoint({"mpd": source.state_dict(), "msd": other}), dim=0)
    assert f"wnconvert.checkpoint.load_into(model, path, only='mpd'){whom}" in said(conversion)
    torch.save(conversion.checkpoint.content, tmp_path / "folded.pt")
    names: dict[str, Any] = {"wnconvert": wnconvert, "model": net(kind), "path": tmp_path / "folded.pt"}
    exec("import wnconvert.checkpoint\n" + "\n".join(conversion.loads_into.code), names)
    x = torch.randn(1, 3, 9)
    assert torch.equal(names["model"](x), source(x))


@pytest.mark.parametrize(
    ("conversion", "loading", "refusing"),
    [
        (lambda: apply(checkpoint(net().state_dict())), [weight_norm, parametrizations.weight_norm], None),
        (
            lambda: migrate(checkpoint(net(weight_norm).state_dict()), "parametrization"),
            [parametrizations.weight_norm],
            weight_norm,
        ),
        (
            lambda: migrate(checkpoint(net(parametrizations.spectral_norm).state_dict()), "hook", dim=0),
            [spectral_norm],
            parametrizations.spectral_norm,
        ),
        (
            lambda: migrate(checkpoint(net(spectral_norm).state_dict()), "parametrization", dim=0),
            [parametrizations.spectral_norm],
            spectral_norm,
        ),
    ],
    ids=["applied", "to parametrization", "spectral to hook", "spectral to parametrization"],
)
def test_torchs_keys_are_for_the_modules_that_are_named(conversion: Any, loading: Any, refusing: Any) -> None:
    made = conversion()
    text = said(made)
    for norm in loading:
        assert ("parametrizations" if norm in (parametrizations.weight_norm,) else "hook") in text or len(loading) == 1
        net(norm).load_state_dict(made.checkpoint.content, strict=True)
    if refusing is not None:
        assert "and not its " in text
        with pytest.raises(RuntimeError, match="Missing key"):
            net(refusing).load_state_dict(made.checkpoint.content, strict=True)
    assert text.endswith("load strictly")


def test_schemes_and_layouts_of_others_are_named() -> None:
    plain = checkpoint(net().state_dict())
    assert said(apply(plain, "centered_weight_norm")) == (
        "keys that only wnconvert has ('0.weight_g'): models that wnconvert.apply(model, 'centered_weight_norm') made; "
        "load strictly"
    )
    one = said(apply(plain, wnconvert.WeightNorm(p=1)))
    assert "wnconvert.apply(model, wnconvert.WeightNorm(p=1" in one  # torch's would compute another weight
    folded = fold(checkpoint(_trained(net(spectral_norm)).state_dict()))
    assert "without spectral norm, or call wnconvert.fold(model) first" in said(folded)
    spectral = folded.checkpoint
    assert "keys of BigGAN-PyTorch's SN ('0.weight')" in said(
        unfold(Checkpoint(spectral.content, "torch_zip"), "biggan")
    )


@pytest.mark.parametrize("name", ["timm-bit", "bit", "mmcv-conv-ws"])
def test_of_folded_weights_under_the_names_of_their_parts_it_is_said_that_their_class_normalizes_them_again(
    name: str, tmp_path: Path
) -> None:
    """Its key does not tell whether a weight is standardized, so no loader would complain."""
    preset = replace(LAYOUTS.get(name)(), only=".*")
    source = checkpoint({"conv.weight": torch.randn(4, 3, 3, 3), "conv.bias": torch.zeros(4)})
    folded = fold(source, presets=[preset])
    assert said(folded) == (
        "plain keys ('conv.weight'): build the model without weight standardization, or call wnconvert.fold(model) "
        "first; wnconvert.checkpoint.load_into(model, path) loads it; the class as it is would take them without a "
        "word, and normalize them again"
    )
    assert folded.loads_into.code[0] == "model, _ = wnconvert.fold(model)"
    applied = unfold(folded.checkpoint, preset)
    assert said(applied) == "keys of the layout that was named ('conv.weight'): the modules of that; load strictly"


def test_what_cannot_hold_any_weight_is_not_said_to() -> None:
    source = checkpoint({"conv.weight": torch.randn(4, 3, 3, 3), "conv.gain": torch.ones(4, 1, 1, 1)})
    folded = fold(source, presets=[LAYOUTS.get("nfnet")()])
    assert "plain keys ('conv.weight'): build the model without scaled weight standardization" in said(folded)
    assert "load_into(model, path) loads it; strict=False would leave" in said(folded)
    applied = unfold(folded.checkpoint, "nfnet")
    assert said(applied).startswith("keys of the layout that was named ('conv.weight')")


def test_a_weight_that_was_in_a_wrapper_is_called_as_it_is_now() -> None:
    vectors = {name: torch.ones(size) for name, size in (("weight_u", 4), ("weight_v", 3))}
    entries = {"net.module.weight_bar": torch.randn(4, 3), **{f"net.module.{key}": v for key, v in vectors.items()}}
    assert said(fold(checkpoint(entries))).startswith(
        "plain keys ('net.weight'): build the model without spectral norm"
    )


def test_the_code_for_parts_is_all_that_is_needed(tmp_path: Path) -> None:
    source = net()
    made = apply(checkpoint({"g": source.state_dict(), "d": net().state_dict()}))
    torch.save(
        {name: {key: torch.as_tensor(each) for key, each in made.checkpoint.content[name].items()} for name in "gd"},
        tmp_path / "applied.pt",
    )
    names: dict[str, Any] = {"wnconvert": wnconvert, "model": net(weight_norm), "path": tmp_path / "applied.pt"}
    exec("import wnconvert.checkpoint\n" + "\n".join(made.loads_into.code), names)
    x = torch.randn(1, 3, 9)
    assert torch.equal(names["model"](x), source(x))


def adapter(folder: Path, *, dora: bool) -> Path:
    """Write a LoRA or DoRA adapter as PEFT does, over the first layer of `net`."""
    tensors = {"lora_A.weight": torch.randn(2, 3, 3), "lora_B.weight": torch.randn(4, 2, 1)}
    tensors |= {"lora_magnitude_vector": torch.rand(1, 4, 1)} if dora else {}
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": dora, "target_modules": ["0"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(
        {f"base_model.model.0.{name}": each for name, each in tensors.items()}, folder / "adapter_model.safetensors"
    )
    return folder


@pytest.mark.parametrize("dora", [True, False])
def test_a_base_with_its_adapter_folded_is_for_what_loads_the_base(tmp_path: Path, dora: bool) -> None:
    folded = fold_adapter(checkpoint(net().state_dict()), adapter(tmp_path, dora=dora))
    assert said(folded) == (
        "the keys of the base ('0.weight'), which has the adapter in it: whatever loads the base; load strictly"
    )
    net().load_state_dict({key: torch.as_tensor(each) for key, each in folded.checkpoint.content.items()}, strict=True)


@pytest.mark.parametrize("to", ["hook", "parametrization"])
def test_an_adapter_that_is_weight_norm_now_is_for_torchs(tmp_path: Path, to: Any) -> None:
    made = migrate_adapter(checkpoint(net().state_dict()), adapter(tmp_path, dora=True), to)
    text = said(made)
    assert text.startswith("keys of torch.nn.utils.")
    assert ("torch's hooks and parametrizations of weight norm" in text) == (to == "hook")
    norm: Any = {"hook": weight_norm, "parametrization": parametrizations.weight_norm}[to]
    model = net()
    norm(model[0])
    model.load_state_dict({key: torch.as_tensor(each) for key, each in made.checkpoint.content.items()}, strict=True)


def _trained(model: nn.Module) -> nn.Module:
    for _ in range(50):
        model(torch.randn(1, 3, 9))
    return model


def test_a_whole_model_needs_nothing() -> None:
    model, report = wnconvert.fold(net(weight_norm))
    assert said(Conversion(Checkpoint(model, "torch_zip"), report)).startswith("the file holds the model itself")


@pytest.mark.parametrize(
    ("config", "known"),
    [
        ('{"architectures": ["Wav2Vec2Model"], "transformers_version": "5.0"}', True),
        ('{"architectures": ["Wav2Vec2Model"]}', False),
        ('{"architectures": [], "transformers_version": "5.0"}', False),
        ('{"architectures": ["a b"], "transformers_version": "5.0"}', False),
        ("[" * 5000, False),
        ("[]", False),
        (None, False),
    ],
)
def test_a_model_folder_names_its_class(tmp_path: Path, config: str | None, known: bool) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(dict(net(parametrizations.weight_norm).state_dict()), folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(config, encoding="utf-8")
    text = said(fold(load(folder)))
    assert ("Wav2Vec2Model.from_pretrained(path) would leave up to 4 tensors random" in text) is known


def test_a_single_file_has_no_configuration_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(dict(net(parametrizations.weight_norm).state_dict()), folder / "model.safetensors")
    config = {"architectures": ["DacModel"], "model_type": "dac", "transformers_version": "5.0"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    conversion = fold(FORMATS.get("safetensors")().adopt(load(folder)))
    assert said(conversion).startswith("plain keys ('0.weight')")


def test_a_class_that_is_built_plain_loads_a_folded_folder_itself(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(dict(net(parametrizations.weight_norm).state_dict()), folder / "model.safetensors")
    config = {"architectures": ["DacModel"], "model_type": "dac", "transformers_version": "5.0"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert said(fold(load(folder))) == ("DacModel.from_pretrained(path), which builds its layers without normalization")
