"""DoRA, against PEFT itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wnconvert.checkpoint.adapters.peft import layout_of
from wnconvert.checkpoint.layout import find_groups
from wnconvert.checkpoint.weights.composing import by_layout
from wnconvert.errors import CheckpointError

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.out = nn.Linear(8, 6), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.query(x))


@pytest.mark.parametrize("rank_stabilized", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dora_is_merged_as_peft_merges_it(dtype: torch.dtype, rank_stabilized: bool, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = Layers().to(dtype)
    base = {key: value.clone() for key, value in model.state_dict().items()}
    config = peft.LoraConfig(
        r=3, lora_alpha=5, use_dora=True, use_rslora=rank_stabilized, target_modules=["query", "out"],
        alpha_pattern={"out": 7},
    )  # fmt: skip
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(tmp_path)
    adapter = load_file(tmp_path / "adapter_model.safetensors")
    layout = layout_of(json.loads((tmp_path / "adapter_config.json").read_text()))
    both = {**base, **adapter}
    groups = find_groups(both, presets=[layout])
    assert [group.stem for group in groups] == ["query.weight", "out.weight"]
    weights = {g.stem: by_layout(g, layout).weight({part: both[key] for part, key in g.keys.items()}) for g in groups}
    live = {key: value for key, value in adapted.state_dict().items() if "query" in key or "out" in key}
    named = {key.removeprefix("base_model.model."): value for key, value in live.items()}
    (again, _) = find_groups(named, presets=[layout])
    assert torch.equal(
        by_layout(again, layout).weight({part: named[key] for part, key in again.keys.items()}), weights["query.weight"]
    ), "the live model's own names are read too"
    merged = adapted.merge_and_unload(safe_merge=True).state_dict()
    assert all(torch.equal(merged[name], weight) for name, weight in weights.items())


def test_what_is_no_dora_adapter_is_refused() -> None:
    with pytest.raises(CheckpointError, match="cannot be understood"):
        layout_of({"use_dora": True})
    layout = layout_of({"use_dora": True, "lora_alpha": 3})
    factors = {
        "base_model.model.q.lora_A.weight": torch.ones(2, 3),
        "base_model.model.q.lora_B.weight": torch.ones(4, 2),
    }
    magnitude = {"base_model.model.q.lora_magnitude_vector": torch.ones(4)}
    cases = {
        "the base has no 'q.weight'": {**factors, **magnitude},
        "its part 'magnitude' is missing": {"q.weight": torch.ones(4, 3), **factors},
        "its parts do not fit together: weight (4, 4), ": {"q.weight": torch.ones(4, 4), **factors, **magnitude},
        "its parts do not fit together: weight (4, 3, 1, 1)": {
            "q.weight": torch.ones(4, 3, 1, 1),
            **factors,
            **magnitude,
        },
    }
    for problem, tensors in cases.items():
        (group,) = find_groups(tensors, presets=[layout])
        assert (group.problem or "").startswith(problem)
