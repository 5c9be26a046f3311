"""Models of other packages with random weights through `wnconvert export`, as a user calls it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from tests.cli.conftest import report, run
from tests.onnx_files.test_architectures import MODELS, count_of, plain_names, pytestmark as theirs

pytestmark = theirs

CODE = """
from tests.onnx_files.test_architectures import MODELS

def build():
    model, x = MODELS[{name!r}][0]()
    model.eval()
    model.example_inputs = x
    model.dynamic_shapes = {{{parameter!r}: {axes!r}}}
    return model
"""


def written(name: str) -> str:
    """Write a factory of a model, and return how it is called."""
    build, axes = MODELS[name]
    parameter = next(iter(inspect.signature(build()[0].forward).parameters))
    Path("net.py").write_text(CODE.format(name=name, parameter=parameter, axes=axes))
    return "net.py:build"


@pytest.mark.parametrize("name", ["hifigan", "vits flow", "dac encoder", "wav2vec2"])
def test_what_is_exported_has_no_norm_and_the_names_and_dims_that_were_given(name: str, folder: Path) -> None:
    source = written(name)
    build, axes = MODELS[name]
    module = build()[0]
    for output in ("out.pt2", "out.onnx"):
        entry = report(run("export", source, "-o", output, "--strict", "--json"))
        assert entry["normalizations"] == {"before": count_of(module), "after": 0}
        assert {each.removesuffix(".T") for each in entry["weights"]} <= plain_names(module)
        assert entry["compared"]["sizes"] >= 2  # some are too small for the model
        (sizes,) = entry["inputs"].values()
        for index, called in axes.items():
            assert sizes.split(",")[index].startswith(called)


def test_what_torch_cannot_export_is_one_line_with_its_reason(folder: Path) -> None:
    outcome = run("export", written("encodec"), "-o", "out.pt2")
    assert outcome.code == 1
    assert "torch.export does not export the model: GuardOnDataDependentSymNode: Could not guard" in outcome.error
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["net.py"]
