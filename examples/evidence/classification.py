"""Handwritten digits: plain, weight norm, weight standardization, batch norm. ``python classification.py``."""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import wnconvert
from study import Claim, Clock, Outcome, Study, is_look, main, scaled

VARIANTS = {
    "plain": "convolutions and a linear layer, torch's own initialization",
    "weight_norm": "`wnconvert.apply(model)`",
    "weight_norm_init": "... and `wnconvert.initialize` on the first 100 images",
    "mean_only_bn": "... and `wnconvert.add_mean_only_batch_norm` behind each convolution before it is initialized",
    "ws_group_norm": "`weight_standardization` of the convolutions, and a group norm behind each",
    "batch_norm": "a batch norm behind each convolution",
}


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images for training and for tests, and their labels; always the same split."""
    images, labels = load_digits(return_X_y=True)
    inputs = (images / 16).astype("float32").reshape(-1, 1, 8, 8)
    arrays = train_test_split(inputs, labels, test_size=0.25, random_state=0, stratify=labels)
    images, test_images, labels, test_labels = map(torch.from_numpy, arrays)
    return images, test_images, labels, test_labels


def net(norm: str | None) -> nn.Sequential:
    """Return the network."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 2)):
        layers.append(nn.Conv2d(inputs, outputs, 3, stride, padding=1))
        if norm is not None:
            layers.append(nn.BatchNorm2d(outputs) if norm == "batch" else nn.GroupNorm(8, outputs))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))


def build(variant: str, images: Tensor, scale: float) -> nn.Module:
    """Return a variant of the network, ready to train."""
    model = scaled(net({"ws_group_norm": "group", "batch_norm": "batch"}.get(variant)), scale)
    if variant == "ws_group_norm":
        return wnconvert.apply(model, "weight_standardization", selection=wnconvert.Selection(ops=("conv2d",))).model
    if variant in ("plain", "batch_norm"):
        return model
    model = wnconvert.apply(model).model
    if variant == "mean_only_bn":
        wnconvert.add_mean_only_batch_norm(model[:-1])  # the last one has one output an image
    if variant != "weight_norm":
        wnconvert.initialize(model, [images[:100]])
    return model


def train(variant: str, rate: float, seed: int, steps: int, batch: int = 32, scale: float = 1.0) -> Outcome:
    """Train one network by SGD with momentum, and look at the test images ten times."""
    images, test_images, labels, test_labels = digits()
    order = torch.Generator().manual_seed(seed)
    model = build(variant, images, scale)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    clock, curve = Clock(), []
    for step in range(1, steps + 1):
        chosen = torch.randint(len(images), (batch,), generator=order)
        with clock:
            optimizer.zero_grad()
            loss = F.cross_entropy(model.train()(images[chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
        if is_look(step, steps):
            curve.append((step, accuracy(model, test_images, test_labels)))
        if not math.isfinite(loss.item()):
            curve.append((steps, 0.0))
            break
    return Outcome(model, (test_images,), curve, clock.seconds, step)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images that are labelled rightly, in per cent."""
    return 100 * (model.eval()(images).argmax(1) == labels).double().mean().item()


#: a variant, and the one that it is compared with
NORM = ("weight_norm", "plain")
INIT = ("weight_norm_init", "plain")
INIT_BATCH = ("weight_norm_init", "batch_norm")
NORM_BATCH = ("weight_norm", "batch_norm")
MEAN = ("mean_only_bn", "plain")
MEAN_BATCH = ("mean_only_bn", "batch_norm")
GROUP_BATCH = ("ws_group_norm", "batch_norm")

STUDY = Study(
    name="classification",
    title="Image classification",
    about=(
        "scikit-learn's 1 797 digits of 8x8 pixels, a quarter of them held out; three convolutions (16, 32 and 32 "
        "channels) with ReLU, and a linear layer. SGD with momentum 0.9, batches of 32, 200 steps (so 200 images in "
        "all where a batch is one), no weight decay, no schedule."
    ),
    quality="test accuracy, %",
    target=95.0,
    worst=0.0,
    variants=VARIANTS,
    rates=(0.003, 0.01, 0.03, 0.1, 0.3),
    settings=({}, {"batch": 1}, {"scale": 0.2}, {"scale": 5.0}),
    train=train,
    steps=200,
    claims=(
        Claim("weight norm converges faster than the plain network", "steps", *NORM),
        Claim("... with data-dependent initialization", "steps", *INIT),
        Claim("... with mean-only batch norm as well", "steps", *MEAN),
        Claim("weight norm reaches a better test accuracy than the plain network", "quality", *NORM),
        Claim("weight norm, initialized, reaches a better one than batch norm", "quality", *INIT_BATCH),
        Claim("weight norm is less sensitive to the learning rate than the plain network", "rates", *NORM),
        Claim("... with data-dependent initialization", "rates", *INIT),
        Claim("... with mean-only batch norm as well", "rates", *MEAN),
        Claim("a step with weight norm is cheaper than one with batch norm", "cost", *NORM_BATCH),
        Claim("a step with weight norm and mean-only batch norm is too", "cost", *MEAN_BATCH),
        Claim(
            "weight norm is better than batch norm with batches of one",
            "quality",
            "weight_norm_init",
            "batch_norm",
            1,
        ),
        Claim("weight standardization and group norm are, too", "quality", *GROUP_BATCH, 1),
        Claim("weight norm is less sensitive to weights that start 5 times smaller", "loss", *NORM, 2),
        Claim("... with data-dependent initialization", "loss", *INIT, 2),
        Claim("weight norm is less sensitive to weights that start 5 times larger", "loss", *NORM, 3),
        Claim("... with data-dependent initialization", "loss", *INIT, 3),
    ),
)

if __name__ == "__main__":
    main(STUDY)
