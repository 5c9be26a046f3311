"""LoRA and DoRA adapters as PEFT saves them, over base files: with the bits that PEFT merges."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from wnconvert.checkpoint import Checkpoint, load
from wnconvert.checkpoint.adapters.merging import fold_adapter, migrate_adapter
from wnconvert.checkpoint.layouts.dora import Dora
from wnconvert.errors import CheckpointError, NothingToConvertError

peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.oracle,
    # PEFT warns of what it finds odd in a config, and of embeddings that it does not save
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match:RuntimeWarning"),
]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


class Layers(nn.Module):
    """One layer of each kind that PEFT adapts; never run as a whole."""

    def __init__(self) -> None:
        from transformers.pytorch_utils import Conv1D

        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.one, self.two, self.three = nn.Conv1d(6, 8, 3), nn.Conv2d(8, 4, (3, 2)), nn.Conv3d(6, 5, (3, 2, 3))
        self.point = nn.Conv2d(4, 6, 1)
        self.linear, self.square = nn.Linear(5, 7), nn.Linear(7, 7, bias=False)
        self.turned, self.turned_square = Conv1D(9, 7), Conv1D(9, 9)
        self.norm, self.score = nn.LayerNorm(9), nn.Linear(9, 3)


#: what one adapter may be over: the weights of transposed layers are told from others by the config.
KINDS = {
    "embedding": ["table"],
    "convolutions": ["one", "two", "three", "point"],
    "linear": ["linear", "square"],
    "transposed": ["turned", "turned_square"],
}


def adapted(model: nn.Module, **options: Any) -> Any:
    """Return a PEFT model whose adapter has learnt something."""
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 3, **options})
    wrapped = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_((0.1 * torch.randn(parameter.shape)).to(parameter.dtype))
    return wrapped


def saved(
    folder: Path, dtype: torch.dtype = torch.float32, make: Callable[[], nn.Module] = Layers, **options: Any
) -> Any:
    """Save base and adapter; return the model as PEFT loads them."""
    torch.manual_seed(0)
    model = make().to(dtype)
    torch.save(model.state_dict(), folder / "base.pt")
    adapted(model, **options).save_pretrained(folder / "adapter", save_embedding_layers=False)
    again = make().to(dtype)
    again.load_state_dict(torch.load(folder / "base.pt"))
    return peft.PeftModel.from_pretrained(again, folder / "adapter").eval()


def check(content: dict[str, Tensor], merged: dict[str, Tensor]) -> None:
    assert list(content) == list(merged)
    for key, value in merged.items():
        assert torch.equal(content[key], value), key


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("use_dora", [True, False], ids=["dora", "lora"])
def test_an_adapter_is_folded_as_peft_merges_it(kind: str, dtype: torch.dtype, use_dora: bool, tmp_path: Path) -> None:
    live = saved(
        tmp_path,
        dtype,
        use_dora=use_dora,
        target_modules=KINDS[kind],
        modules_to_save=["score"],
        use_rslora=kind != "convolutions",
        fan_in_fan_out=kind == "transposed",
        rank_pattern={"square": 2, "two": 3},
        alpha_pattern={"square|t.o": 7},
    )
    everything = {key: value.clone() for key, value in live.state_dict().items()}
    merged = live.merge_and_unload().state_dict()
    conversion = fold_adapter(load(tmp_path / "base.pt"), tmp_path / "adapter")
    check(conversion.checkpoint.content, merged)
    assert {entry.scheme for entry in conversion.report.converted} == {"dora" if use_dora else "lora"}
    assert [entry.fqn for entry in conversion.report.converted] == [f"{name}.weight" for name in KINDS[kind]]
    assert any("'score.bias' and 1 more of the base" in note for note in conversion.report.notes)
    whole = fold_adapter(Checkpoint(everything, "torch_zip"), tmp_path / "adapter" / "adapter_config.json")
    check(whole.checkpoint.content, merged)
    exact = fold_adapter(load(tmp_path / "base.pt"), tmp_path / "adapter", precision="reference")
    # PEFT rounds what it adds to an embedding before the sum too, which shows where the two cancel
    margin = {"rtol": 2e-2, "atol": 1e-3} if dtype in DTYPES[2:] else {}
    for key, value in merged.items():
        torch.testing.assert_close(exact.checkpoint.content[key], value, **margin)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("bias", "lora_bias"), [("lora_only", False), ("all", False), ("none", True), ("all", True)])
def test_biases_are_folded_as_peft_merges_them(bias: str, lora_bias: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    live = saved(tmp_path, dtype, target_modules=["linear", "two"], bias=bias, lora_bias=lora_bias)
    merged = live.merge_and_unload().state_dict()
    check(fold_adapter(load(tmp_path / "base.pt"), tmp_path / "adapter").checkpoint.content, merged)


def test_the_adapter_is_read_in_any_form(tmp_path: Path) -> None:
    live = saved(tmp_path, use_dora=True, target_modules=["linear"])
    base = load(tmp_path / "base.pt")
    whole = {key: value.clone() for key, value in live.state_dict().items()}
    wrapped = {f"module.{key}": value for key, value in whole.items()}
    injected = {key.removeprefix("base_model.model."): value for key, value in whole.items()}
    live.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    merged = live.merge_and_unload().state_dict()
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    check(fold_adapter(base, file).checkpoint.content, merged)
    check(fold_adapter(base, tmp_path / "pickled").checkpoint.content, merged)
    for content in (whole, wrapped, injected):
        check(fold_adapter(Checkpoint(content, "torch_zip"), Dora(alpha=3)).checkpoint.content, merged)
    nested = fold_adapter(Checkpoint({"model": whole, "epoch": 3}, "torch_zip"), Dora(alpha=3)).checkpoint.content
    check(nested["model"], merged)
    assert nested["epoch"] == 3
    with pytest.raises(CheckpointError, match=r"give its adapter_config\.json alone"):
        fold_adapter(Checkpoint(whole, "torch_zip"), tmp_path / "adapter")


def test_several_adapters_in_one_model_are_refused() -> None:
    torch.manual_seed(0)
    live = adapted(Layers(), target_modules=["linear"])
    live.add_adapter("other", peft.LoraConfig(r=2, target_modules=["linear"]))
    with pytest.raises(CheckpointError, match=r"several adapters \('default', 'other'\)"):
        fold_adapter(Checkpoint(live.state_dict(), "torch_zip"), Dora(alpha=3))


def test_modules_with_and_without_a_magnitude_may_be_in_one_model() -> None:
    torch.manual_seed(0)
    plain, normed = (adapted(Layers(), target_modules=["linear"], use_dora=dora) for dora in (False, True))
    content = {f"{name}.{key.removeprefix('base_model.model.')}": value.clone()
               for name, live in (("a", plain), ("b", normed)) for key, value in live.state_dict().items()}  # fmt: skip
    conversion = fold_adapter(Checkpoint(content, "torch_zip"), Dora(alpha=3))
    assert [(entry.scheme, entry.plain) for entry in conversion.report.converted] == [("lora", True), ("dora", True)]
    migrated = migrate_adapter(Checkpoint(content, "torch_zip"), Dora(alpha=3), "hook")
    assert [(entry.scheme, entry.plain) for entry in migrated.report.converted] == [("lora", True), ("dora", False)]
    folded = conversion.checkpoint.content
    assert torch.equal(folded["a.linear.weight"], plain.merge_and_unload().linear.weight)
    assert torch.equal(folded["b.linear.weight"], normed.merge_and_unload().linear.weight)


def test_a_convolution_with_groups_is_refused(tmp_path: Path) -> None:
    model = partial(nn.Sequential, nn.Conv1d(8, 4, 3, groups=2))
    live = saved(tmp_path, make=model, target_modules=["0"])
    with pytest.raises(CheckpointError, match="convolution with groups"):
        fold_adapter(load(tmp_path / "base.pt"), tmp_path / "adapter")
    with pytest.raises(NotImplementedError):  # neither can PEFT
        live.merge_and_unload()


def test_a_convolution_that_peft_cannot_merge_computes_what_it_computed(tmp_path: Path) -> None:
    live = saved(tmp_path, make=partial(nn.Sequential, nn.Conv3d(4, 6, (1, 1, 3))), target_modules=["0"], use_dora=True)
    content = fold_adapter(load(tmp_path / "base.pt"), tmp_path / "adapter").checkpoint.content
    x = torch.randn(2, 4, 3, 3, 5)
    # PEFT adds outputs, where a folded layer adds weights: float32 agrees up to rounding
    torch.testing.assert_close(nn.functional.conv3d(x, content["0.weight"], content["0.bias"]), live(x))


def test_square_weights_that_the_config_may_be_wrong_about_are_refused(tmp_path: Path) -> None:
    # PEFT sets 'fan_in_fan_out' by the layer that it comes to last, here nn.Linear, and saves that
    saved(tmp_path, target_modules=["turned", "turned_square", "score"], fan_in_fan_out=True)
    with pytest.raises(CheckpointError, match=r"'turned_square.weight': it is square"):
        fold_adapter(load(tmp_path / "base.pt"), tmp_path / "adapter")


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_folded_apart(tied: bool, tmp_path: Path) -> None:
    live = saved(tmp_path, make=partial(Tied, tied=tied), target_modules=["table"], use_dora=True)
    x = torch.arange(11)
    expected = live(x)
    conversion = fold_adapter(load(tmp_path / "base.pt"), tmp_path / "adapter")
    model = Tied(tied=False)
    model.load_state_dict(conversion.checkpoint.content)
    torch.testing.assert_close(model(x), expected)
    assert any("are tied in the base, and no more" in note for note in conversion.report.notes) == tied
    assert any("if the model ties its output layer" in note for note in conversion.report.notes) != tied


def test_a_module_that_is_saved_whole_is_untied_too(tmp_path: Path) -> None:
    saved(tmp_path, make=partial(Tied, tied=True), target_modules=["more"], modules_to_save=["head"])
    conversion = fold_adapter(load(tmp_path / "base.pt"), tmp_path / "adapter")
    assert any("'head.weight' and 'table.weight' are tied" in note for note in conversion.report.notes)


class Tied(nn.Module):
    """An embedding and an output layer over one weight."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.table, self.head, self.more = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False), nn.Linear(6, 6)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x))  # type: ignore[no-any-return]


class Small(nn.Module):
    """What an adapter and weight norm may be over, run as a whole."""

    def __init__(self) -> None:
        from transformers.pytorch_utils import Conv1D

        super().__init__()
        self.table, self.linear, self.turned = nn.Embedding(11, 6), nn.Linear(6, 8), Conv1D(8, 8)
        self.conv = nn.Conv1d(8, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.turned(self.linear(self.table(x))).mT)  # type: ignore[no-any-return]


DIMS = {"table": 1, "linear": 0, "turned": 1, "conv": 0}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("to", ["hook", "parametrization"])
@pytest.mark.parametrize("names", [["table", "conv", "linear"], ["turned", "conv"]], ids=str)
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_dora_goes_on_as_weight_norm(names: list[str], to: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    live = saved(tmp_path, dtype, Small, use_dora=True, target_modules=names, fan_in_fan_out="turned" in names)
    conversion = migrate_adapter(load(tmp_path / "base.pt"), tmp_path / "adapter", to)
    model = Small().to(dtype).eval()
    norm = parametrizations.weight_norm if to == "parametrization" else nn.utils.weight_norm
    for name in names:
        norm(model.get_submodule(name), dim=DIMS[name])
    model.load_state_dict(conversion.checkpoint.content, strict=True)
    x = torch.randint(11, (2, 7))
    expected = live(x)
    merged = live.merge_and_unload()
    result = model(x)  # which makes hooks compute their weights
    for name in names:
        # torch computes v * (g / norm), PEFT (m / norm) * v with other kernels, and direction and magnitude are
        # rounded to the dtype of the base before: two roundings more than the merge
        margin = {"rtol": 3e-2, "atol": 1e-2} if dtype is torch.bfloat16 else {}
        torch.testing.assert_close(
            model.get_submodule(name).weight, merged.get_submodule(name).weight, check_device=False, **margin
        )
    if dtype is not torch.bfloat16:
        torch.testing.assert_close(result, expected)
    result.float().square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_only_dora_can_be_migrated(tmp_path: Path) -> None:
    saved(tmp_path, make=Small, target_modules=["linear"])
    with pytest.raises(NothingToConvertError, match="so it is LoRA; fold it"):
        migrate_adapter(load(tmp_path / "base.pt"), tmp_path / "adapter", "hook")


def test_the_base_may_be_a_sharded_model_folder(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=40, n_positions=8))
    model.save_pretrained(tmp_path / "base", max_shard_size="10KB")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 1
    wrapped = adapted(model, target_modules=["c_attn", "c_fc"], use_dora=True, fan_in_fan_out=True)
    wrapped.save_pretrained(tmp_path / "adapter")
    merged = wrapped.merge_and_unload().state_dict()
    conversion = fold_adapter(load(tmp_path / "base"), tmp_path / "adapter")
    content = conversion.checkpoint.content
    assert len(conversion.report.converted) == 4
    assert all(torch.equal(content[key], merged[key]) for key in content)


def test_methods_other_than_lora_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    configs = (
        peft.LoHaConfig(target_modules=["linear"]),
        peft.IA3Config(target_modules=["linear"], feedforward_modules=[]),
    )
    for number, config in enumerate(configs):
        peft.get_peft_model(Layers(), config).save_pretrained(tmp_path / str(number))
        with pytest.raises(CheckpointError, match=r"is of the method '(LOHA|IA3)'"):
            fold_adapter(Checkpoint(Layers().state_dict(), "torch_zip"), tmp_path / str(number))


def test_attention_is_refused(tmp_path: Path) -> None:
    live = saved(tmp_path, make=Attention, target_modules=["attention"])
    with pytest.raises(CheckpointError, match="is over MultiheadAttention"):
        fold_adapter(load(tmp_path / "base.pt"), tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="is over MultiheadAttention"):
        fold_adapter(Checkpoint(live.state_dict(), "torch_zip"), tmp_path / "adapter" / "adapter_config.json")


class Attention(nn.Module):
    """An attention, of which PEFT adapts two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)


def test_an_adapter_that_changed_its_base_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, target_modules=["linear"], init_lora_weights="pissa")
    with pytest.raises(CheckpointError, match="'init_lora_weights' is 'pissa'"):
        fold_adapter(load(tmp_path / "base.pt"), tmp_path / "adapter")


def test_a_row_of_zeros_gives_what_peft_gives_and_a_note(tmp_path: Path) -> None:
    live = saved(tmp_path, make=partial(nn.Sequential, nn.Linear(3, 4)), target_modules=["0"], use_dora=True)
    base = load(tmp_path / "base.pt")
    with torch.no_grad():
        for tensor in (live.base_model.model[0].base_layer.weight, base.content["0.weight"]):
            tensor[1] = 0
        live.base_model.model[0].lora_B["default"].weight[1] = 0
    live.save_pretrained(tmp_path / "adapter")
    conversion = fold_adapter(base, tmp_path / "adapter")
    merged = live.merge_and_unload().state_dict()["0.weight"]
    assert merged[1].isnan().all()
    torch.testing.assert_close(conversion.checkpoint.content["0.weight"], merged, rtol=0, atol=0, equal_nan=True)
    assert any(note.startswith("not finite everywhere: '0.weight'") for note in conversion.report.notes)


def test_a_saved_base_with_safetensors_folds_too(tmp_path: Path) -> None:
    live = saved(tmp_path, target_modules=["linear"], use_dora=True)
    save_file(torch.load(tmp_path / "base.pt"), tmp_path / "base.safetensors")
    content = fold_adapter(load(tmp_path / "base.safetensors"), tmp_path / "adapter").checkpoint.content
    assert all(torch.equal(content[key], value) for key, value in live.merge_and_unload().state_dict().items())
