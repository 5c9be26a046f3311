"""Gains of the norms of language and vision models, into every layer that reads them: found from the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wnconvert

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 50,
    "max_position_embeddings": 64,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 64}


class Logits(nn.Module):
    """A model that gives its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


def made(auto: Any, name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    ends = {} if name == "vit" else {"bos_token_id": 1, "eos_token_id": 2}
    model = auto.from_config(transformers.AutoConfig.for_model(name, **ends, **options)).eval()
    model.config.use_cache = False
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.uniform_(0.3, 1.5)
    return Logits(model)


CAUSAL, MASKED = transformers.AutoModelForCausalLM, transformers.AutoModelForMaskedLM
IMAGES = transformers.AutoModelForImageClassification
#: model, number of gains that are fused, of which one may go into a tied head, and the norms that stay with the reason
MODELS: dict[str, tuple[Callable[[], nn.Module], int, dict[str, str]]] = {
    "llama": (lambda: made(CAUSAL, "llama", **TEXT, num_key_value_heads=2, tie_word_embeddings=False), 5, {}),
    "llama, tied": (
        *(lambda: made(CAUSAL, "llama", **TEXT, num_key_value_heads=2, tie_word_embeddings=True), 4),
        {"model.model.norm.weight": "TIED"},
    ),
    "gemma": (
        *(lambda: made(CAUSAL, "gemma", **TEXT, num_key_value_heads=2, head_dim=8), 4),
        {"model.model.norm.weight": "TIED"},
    ),
    "gpt2": (lambda: made(CAUSAL, "gpt2", **GPT2), 4, {"model.transformer.ln_f": "TIED"}),
    "bert": (
        # its norms stand behind the residual, which reads them too; but for the last one
        *(lambda: made(MASKED, "bert", **TEXT, tie_word_embeddings=False), 2),
        {
            "model.bert.embeddings.LayerNorm": "USED_ELSEWHERE",
            "model.bert.encoder.layer.0.attention.output.LayerNorm": "USED_ELSEWHERE",
            "model.bert.encoder.layer.0.output.LayerNorm": "USED_ELSEWHERE",
            "model.bert.encoder.layer.1.attention.output.LayerNorm": "USED_ELSEWHERE",
        },
    ),
    "vit": (lambda: made(IMAGES, "vit", **VISION), 4, {"model.vit.layernorm": "NO_LAYER"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_gains_move_into_all_layers_that_read_them(name: str):
    build, count, left = MODELS[name]
    model = build()
    x = torch.randn(2, 3, 32, 32) if name == "vit" else torch.randint(3, 49, (2, 7))
    program = torch.export.export(model, (x,), strict=False)
    fused, report = wnconvert.fuse(program)
    assert len(report.fused) == count
    assert {entry.fqn: entry.reason.why.name for entry in report.skipped} == left
    assert report.measured is not None
    assert report.measured.fused < 1e-6
    torch.testing.assert_close(fused.module()(x), program.module()(x))
    gone = {entry.fqn for entry in report.fused}
    assert not any(key in gone or key.rpartition(".")[0] in gone for key in fused.state_dict)
    if "TIED" in left.values():
        untied, report = wnconvert.fuse(program, untie=True)
        assert len(report.fused) == count + 1
        torch.testing.assert_close(untied.module()(x), program.module()(x))


def test_query_key_value_and_gate_and_up():
    build, *_ = MODELS["llama"]
    program = torch.export.export(build(), (torch.randint(3, 49, (2, 7)),), strict=False)
    into = {entry.fqn: entry.into for entry in wnconvert.fuse(program).report.fused}
    layer = "model.model.layers.0"
    assert into[f"{layer}.input_layernorm.weight"] == tuple(f"{layer}.self_attn.{each}_proj.weight" for each in "qkv")
    assert into[f"{layer}.post_attention_layernorm.weight"] == tuple(
        f"{layer}.mlp.{each}_proj.weight" for each in ("gate", "up")
    )
