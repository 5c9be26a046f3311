"""Print the accuracy of checkpoints of the digits network, plain or weight-normalized.

    python evaluate.py digits.pt [more.pt ...]

A checkpoint in the hook layout (``weight_g``, ``weight_v``) or in the parametrization layout is loaded through
torch's own weight norm: nothing here imports wnconvert. Each further file is also compared with the first.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from model import build

#: How torch spells the magnitude of a weight-normalized weight, after the name of the module.
MAGNITUDES = (".weight_g", ".parametrizations.weight.original0")


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images, test images, training labels and test labels; the same split at every call."""
    images, labels = load_digits(return_X_y=True)
    inputs = (images / 16).astype("float32").reshape(-1, 1, 8, 8)
    arrays = train_test_split(inputs, labels, test_size=0.25, random_state=0, stratify=labels)
    train_images, test_images, train_labels, test_labels = map(torch.from_numpy, arrays)
    return train_images, test_images, train_labels, test_labels


def load(path: Path) -> nn.Module:
    """Return the network with the weights of ``path``, ready to evaluate."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, weights_only=True)
    model = build()
    for key, magnitude in state.items():
        for ending in MAGNITUDES:
            if key.endswith(ending):
                module = model.get_submodule(key.removesuffix(ending))
                weight_norm(module, dim=kept_dim(module.weight, magnitude))
    model.load_state_dict(state)
    return model.eval()


def kept_dim(weight: Tensor, magnitude: Tensor) -> int | None:
    """Return the dim of ``weight`` that ``magnitude`` keeps; None says that it is the norm of the whole tensor."""
    for dim, size in enumerate(weight.shape):
        if magnitude.shape == tuple(size if other == dim else 1 for other in range(weight.ndim)):
            return dim
    return None


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of ``images`` that ``model`` labels rightly."""
    return (model(images).argmax(1) == labels).float().mean().item()


@torch.no_grad()
def main(paths: list[Path]) -> None:
    """Print one line per checkpoint."""
    _, images, _, labels = digits()
    first: Tensor | None = None
    for path in paths:
        model = load(path)
        logits = model(images)
        line = f"{path}: accuracy {accuracy(model, images, labels):.4f}"
        if first is None:
            first = logits
        else:
            line += f", largest difference of a logit {(logits - first).abs().max().item():g}"
        print(line)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python evaluate.py CHECKPOINT [CHECKPOINT ...]")
    main([Path(argument) for argument in sys.argv[1:]])
