"""Draws the pictures of the documentation from the schemes themselves: `python docs/_site/figures.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import nn

import wnconvert
from wnconvert.scheme import SCHEMES

IMAGES = Path(__file__).parents[1] / "images"
GRAY, BLUE, RED = "#9aa0a6", "#1a66c9", "#c62828"


def weights() -> torch.Tensor:
    """Return 24 weight vectors of two elements, on a lopsided ring."""
    turn = torch.arange(24) * (2 * torch.pi / 24)
    length = 1 + 0.45 * torch.sin(2 * turn) + 0.25 * torch.cos(turn)
    return torch.stack([length * torch.cos(turn), length * torch.sin(turn)], dim=1)


def panel(axes: Axes, name: str) -> None:
    """Show the vectors before and after a scheme, and where a step through its parts moves them."""
    plain = nn.Sequential(nn.Linear(2, 24, bias=False))
    with torch.no_grad():
        plain[0].weight.copy_(weights())
    model, _ = wnconvert.apply(plain, name)
    model.eval()
    before = plain[0].weight.detach()
    after = model[0].weight.detach().clone()
    model[0].weight.sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.25 * parameter.grad
    step = model[0].weight.detach() - after
    axes.scatter(*before.T, s=22, color=GRAY)
    axes.scatter(*after.T, s=12, color=BLUE, zorder=3)
    axes.quiver(*after.T, *step.T, color=RED, angles="xy", scale_units="xy", scale=1, width=0.006, zorder=2)
    axes.set_title(name, fontsize=9)
    axes.set_aspect("equal")
    axes.set(xlim=(-2.1, 2.1), ylim=(-2.1, 2.1), xticks=[], yticks=[])
    axes.axhline(0, color="#dddddd", lw=0.6, zorder=0)
    axes.axvline(0, color="#dddddd", lw=0.6, zorder=0)


def schemes() -> None:
    """Draw a panel for each scheme."""
    figure, grid = plt.subplots(3, 3, figsize=(8, 8.3), layout="constrained")
    for axes, name in zip(grid.flat, sorted(SCHEMES), strict=True):
        panel(axes, name)
    save(figure, "schemes")


def overview() -> None:
    """Draw what the two words mean: one weight, its parts, and the same weight again."""
    figure, axes = plt.subplots(figsize=(8, 2.1), layout="constrained")
    axes.set(xlim=(0, 10), ylim=(0, 2.6))
    axes.axis("off")
    plain = "conv.weight"
    normalized = "conv.weight_g   magnitude\nconv.weight_v   direction"
    for x, text, under in ((1.4, plain, "export, quantize, merge, share"), (8.1, normalized, "train")):
        box = {"boxstyle": "round,pad=0.7", "facecolor": "white", "edgecolor": BLUE, "linewidth": 1.4}
        axes.text(x, 1.5, text, ha="center", va="center", family="monospace", fontsize=11, bbox=box)
        axes.text(x, 0.35, under, ha="center", va="center", fontsize=10, color="#5f6368")
    for y, start, end, word in ((1.85, 2.7, 6.0, "apply"), (1.15, 6.0, 2.7, "fold")):
        axes.annotate("", (end, y), (start, y), arrowprops={"arrowstyle": "-|>", "color": RED, "lw": 1.6})
        axes.text(4.35, y + (0.18 if word == "apply" else -0.24), word, ha="center", va="center", fontsize=12)
    axes.text(4.35, 0.35, "bit for bit, both ways", ha="center", va="center", fontsize=10, color="#5f6368")
    save(figure, "overview")


def save(figure: plt.Figure, name: str) -> None:
    """Write a figure without the date, so that the same code gives the same file."""
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None}, facecolor="white")
    plt.close(figure)


if __name__ == "__main__":
    mpl.rcParams["svg.hashsalt"] = "wnconvert"
    torch.manual_seed(0)
    schemes()
    overview()
