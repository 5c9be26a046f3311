"""Text, vision and recurrent models besides."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.check import Case, Inputs


def cases() -> Iterator[Case]:
    """Yield a case for every model."""
    for name, make in MODELS.items():
        yield Case("other", name.lower(), name, make)


def _text(name: str, **options: Any) -> tuple[nn.Module, Inputs]:
    import transformers

    kind = getattr(transformers, name)
    config = kind.config_class(vocab_size=32, bos_token_id=0, eos_token_id=1, **options)
    return kind(config), ((torch.randint(2, 32, (2, 9)),), {})


_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def _vision(name: str, size: int = 64) -> tuple[nn.Module, Inputs]:
    from torchvision import models

    return models.get_model(name, weights=None, num_classes=10), ((torch.randn(2, 3, size, size),), {})


class Tagger(nn.Module):
    """A recurrent tagger, of the kind that torch.fx does not look into."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, 8)
        self.recurrent = kind(8, 8, num_layers=2, bidirectional=True, **options)
        self.head = nn.Linear(2 * (options.get("proj_size") or 8), 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores of five tags for each token."""
        return self.head(self.recurrent(self.embedding(tokens))[0])


def _tagger(kind: type[nn.RNNBase], **options: Any) -> tuple[nn.Module, Inputs]:
    return Tagger(kind, **options), ((torch.randint(0, 32, (2, 7)),), {})


def _transformer() -> tuple[nn.Module, Inputs]:
    model = nn.Transformer(16, 2, num_encoder_layers=2, num_decoder_layers=2, dim_feedforward=32, batch_first=True)
    return model, ((torch.randn(2, 5, 16), torch.randn(2, 4, 16)), {})


def _encoder() -> tuple[nn.Module, Inputs]:
    """An encoder that takes torch's fast path in evaluation."""
    layer = nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, batch_first=True)
    return nn.TransformerEncoder(layer, 2), ((torch.randn(2, 5, 16),), {})


#: name -> what makes the model
MODELS = {
    "BertModel": partial(_text, "BertModel", **_SMALL),
    "LlamaForCausalLM": partial(_text, "LlamaForCausalLM", **_SMALL),
    "GPT2LMHeadModel": partial(_text, "GPT2LMHeadModel", n_embd=16, n_layer=2, n_head=2, n_positions=32),
    "T5EncoderModel": partial(_text, "T5EncoderModel", d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2),
    "torchvision-resnet18": partial(_vision, "resnet18"),
    "torchvision-vit_b_16": partial(_vision, "vit_b_16", 224),
    "torchvision-mobilenet_v3_small": partial(_vision, "mobilenet_v3_small"),
    "LSTM-tagger": partial(_tagger, nn.LSTM),
    "LSTM-with-projection-tagger": partial(_tagger, nn.LSTM, proj_size=4),
    "GRU-tagger": partial(_tagger, nn.GRU),
    "RNN-tagger": partial(_tagger, nn.RNN),
    "nn.Transformer": _transformer,
    "nn.TransformerEncoder": _encoder,
}
