"""The weights of a file as a figure."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from wnconvert.checkpoint import Checkpoint, statistics
from wnconvert_cli.figures.plotted import MOST_NAMES, figure_of, picture

pytest.importorskip("matplotlib")


def weights(count=3, g=True):
    generator = torch.Generator().manual_seed(0)
    content = {}
    for index in range(count):
        content[f"layers.{index}.weight_v"] = torch.randn(6, 5, generator=generator)
        content[f"layers.{index}.weight_g"] = torch.rand(6, 1, generator=generator) + 1
    content = content if g else {key.removesuffix("_v"): value for key, value in content.items() if "_v" in key}
    return [*statistics(Checkpoint(content, "torch_zip"))]


def test_there_is_a_panel_for_each_measure_and_a_place_for_each_weight():
    known = weights()
    figure = figure_of("net.pt", known)
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == ["norm of channels", "magnitude (g)", "spectral norm", "odd channels"]
    assert [text.get_text() for text in figure.axes[-1].get_xticklabels()] == [f"layers.{i}.weight" for i in range(3)]
    (medians,) = figure.axes[0].lines
    assert medians.get_ydata().tolist() == [each.norms.median for each in known]
    (sigmas,) = figure.axes[2].lines
    assert sigmas.get_ydata().tolist() == [each.sigma for each in known]
    assert [axis.get_ylabel() for axis in figure_of("net.pt", weights(g=False)).axes] == [
        label for label in labels if label != "magnitude (g)"
    ]


def test_odd_channels_are_stacked():
    first, second, third = weights()
    odd = [dataclasses.replace(first, dead=2, duplicate=1), dataclasses.replace(second, duplicate=3), third]
    figure = figure_of("net.pt", odd)
    assert [bar.get_height() for bar in figure.axes[-1].patches] == [2, 0, 0, 1, 3, 0]
    assert [text.get_text() for text in figure.axes[-1].get_legend().get_texts()] == ["dead (2)", "duplicate (4)"]


def test_numbers_of_several_magnitudes_are_shown_by_their_logarithms():
    first, *others = weights()
    large = dataclasses.replace(first.norms, max=1e4)
    assert figure_of("", [dataclasses.replace(first, norms=large), *others]).axes[0].get_yscale() == "symlog"
    assert figure_of("", [first, *others]).axes[0].get_yscale() == "linear"


def test_weights_without_numbers_leave_their_place():
    first, second, third = weights()
    problem = dataclasses.replace(second, problem="no", norms=None, g=None, sigma=None)
    (medians,) = figure_of("", [first, problem, third]).axes[0].lines
    assert medians.get_xdata().tolist() == [0, 2]
    assert picture("", [problem], "png").startswith(b"\x89PNG")


def test_many_weights_fit_on_one_page_and_hostile_names_are_texts():
    known = weights(MOST_NAMES + 1)
    figure = figure_of("$\\frac{x$\n\x1b[31m", known)
    assert figure.get_size_inches()[0] <= 24
    assert "61 weights" in figure.axes[-1].get_xlabel()
    figure.canvas.draw()
    hostile = [dataclasses.replace(known[0], name="$x^{$<script>alert(1)</script>" + "y" * 500)]
    assert b"<script>" not in picture("<b>&", hostile, "svg")
