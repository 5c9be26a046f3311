"""DoRA adapters as PEFT saves them, folded into files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wnconvert.checkpoint import Checkpoint, load
from wnconvert.checkpoint.adapters import fold_adapter
from wnconvert.errors import CheckpointError, NothingToConvertError
from wnconvert.selection import Selection


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.out, self.score = nn.Linear(8, 6), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.out(self.query(x)))


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_an_adapter_is_folded_as_peft_merges_it(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = Layers()
    save_file(model.state_dict(), tmp_path / "base.safetensors")
    config = peft.LoraConfig(
        r=3, lora_alpha=5, use_dora=True, target_modules=["query", "out"], modules_to_save=["score"]
    )
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(tmp_path / "adapter")
    conversion = fold_adapter(load(tmp_path / "base.safetensors"), tmp_path / "adapter")
    merged = adapted.merge_and_unload(safe_merge=True).state_dict()
    assert {entry.scheme for entry in conversion.report.converted} == {"dora"}
    content = conversion.checkpoint.content
    assert content.keys() == merged.keys()
    assert all(torch.equal(content[key], value) for key, value in merged.items())


def adapter(folder: Path, **config: object) -> Path:
    """An adapter of one layer, written by hand."""
    (folder / "adapter_config.json").write_text(json.dumps({"use_dora": True, "lora_alpha": 4, "r": 2, **config}))
    prefix = "base_model.model.q.lora_"
    tensors = {
        f"{prefix}A.weight": torch.randn(2, 3),
        f"{prefix}B.weight": torch.zeros(4, 2),
        f"{prefix}magnitude_vector": torch.full((4,), 2.0),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def base(**tensors: Tensor) -> Checkpoint:
    return Checkpoint({"q.weight": torch.randn(4, 3), "other": torch.ones(2), **tensors}, "torch_zip")


def test_a_selection_leaves_the_rest_of_the_base_as_it_was(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    content = fold_adapter(base(), folder, selection=Selection(include=("q",))).checkpoint.content
    assert list(content) == ["q.weight", "other"]
    torch.testing.assert_close(content["q.weight"].norm(dim=1), torch.full((4,), 2.0))


def test_what_is_no_adapter_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    with pytest.raises(NothingToConvertError, match=r"the base has no 'q\.weight'"):
        fold_adapter(Checkpoint({"p.weight": torch.ones(2, 2)}, "torch_zip"), folder)
    with pytest.raises(CheckpointError, match="no state dict at its root"):
        fold_adapter(Checkpoint({"model": {"q.weight": torch.ones(4, 3)}}, "torch_zip"), folder)
    with pytest.raises(NothingToConvertError, match="do not fit together"):
        fold_adapter(Checkpoint({"q.weight": torch.ones(3, 4)}, "torch_zip"), folder)
    more = {**load_file(folder / "adapter_model.safetensors"), "base_model.model.score.weight": torch.ones(2, 2)}
    save_file(more, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"has no 'score\.weight'"):
        fold_adapter(base(), folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        fold_adapter(base(), folder)
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds no mapping"):
        fold_adapter(base(), folder)
    adapter(folder, use_dora=False)
    with pytest.raises(CheckpointError, match="use_dora"):
        fold_adapter(base(), folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="neither"):
        fold_adapter(base(), folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="no adapter folder"):
        fold_adapter(base(), folder)
