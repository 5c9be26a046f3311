"""Whole files: folded, proven, and put in their place wholly or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.onnx_files.graphs import array, convolution, loaded, model, one_layer, ops, parts, run, saved, weights
from wnconvert import Selection
from wnconvert.errors import CheckpointError, NothingToConvertError, OutputError, VerificationError
from wnconvert.onnx_files import conversion, fold, fold_file
from wnconvert.onnx_files.conversion import data_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return saved(one_layer(), tmp_path / "m.onnx")


@pytest.fixture
def external(tmp_path: Path) -> Path:
    path = tmp_path / "e.onnx"
    onnx.save(one_layer(), path, save_as_external_data=True, location="e.onnx.data", size_threshold=0)
    return path


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_a_file_is_folded_and_its_outputs_are_the_same(path: Path) -> None:
    before = path.read_bytes()
    outcome = fold_file(path, path.with_name("out.onnx"))
    x = array(2, 4, 30)
    assert np.array_equal(run(path, x=x), run(path.with_name("out.onnx"), x=x))
    assert ops(path.with_name("out.onnx")) == ["Conv"]
    assert names(path.parent) == ["m.onnx", "out.onnx"]
    assert path.read_bytes() == before
    assert outcome.shapes == {"conv.weight": (8, 4, 3)}
    assert outcome.report.notes[:2] == (
        "outputs compared in onnxruntime on 3 random inputs of different sizes: the same bits",
        "4 nodes became 1, and 0 weights are still computed",
    )


def test_nothing_is_written_without_an_output(path: Path) -> None:
    outcome = fold_file(path, None)
    assert [(entry.fqn, entry.plain) for entry in outcome.report.converted] == [("conv.weight", True)]
    assert names(path.parent) == ["m.onnx"]


def test_data_count_by_whatever_name_the_model_has_for_them(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(one_layer(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "other.bin").write_bytes(b"x")
    (tmp_path / "m.onnx.later").write_bytes(b"x")
    assert sorted(each.name for each in conversion.files_of(path)) == ["m.onnx", "m.onnx.later", "weights.bin"]
    fold_file(path, tmp_path / "out.onnx")


def test_external_data_go_beside_the_output(external: Path) -> None:
    output = external.with_name("out.onnx")
    outcome = fold_file(external, output)
    assert outcome.files == ("out.onnx.data", "out.onnx")
    assert weights(output).keys() == {"conv.bias", "conv.weight"}
    output.unlink()
    with pytest.raises(OutputError, match=r"'.*out.onnx.data' exists"):
        fold_file(external, output)


def test_an_older_output_is_replaced_only_on_request_and_whole(external: Path) -> None:
    output = external.with_name("out.onnx")
    fold_file(external, output)
    old = names(external.parent)
    with pytest.raises(OutputError, match="exists"):
        fold_file(external, output)
    assert names(external.parent) == old
    other = external.with_name("out.onnx.important.data")
    other.write_bytes(b"not ours")
    (data,) = fold_file(external, output, force=True).files[:1]
    assert names(external.parent) == sorted(["e.onnx", "e.onnx.data", "out.onnx", data, other.name])
    assert data != data_of(output).name
    assert weights(output).keys() == {"conv.bias", "conv.weight"}


def test_until_the_model_has_its_place_the_older_one_is_whole(external: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = external.with_name("out.onnx")
    fold_file(external, output)
    expected = weights(output)
    place = conversion.Scratch.place

    def fail(room: conversion.Scratch, place_of: Path) -> None:
        if place_of == output:
            raise OSError(28, "No space left on device")
        place(room, place_of)

    monkeypatch.setattr(conversion.Scratch, "place", fail)
    with pytest.raises(OutputError, match="No space left"):
        fold_file(external, output, force=True)
    found = weights(output)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert not [name for name in names(external.parent) if name.startswith(".")]


def test_the_output_is_for_those_who_may_read_the_input(external: Path) -> None:
    external.chmod(0o640)
    fold_file(external, external.with_name("out.onnx"))
    for name in ("out.onnx", "out.onnx.data"):
        assert external.with_name(name).stat().st_mode & 0o777 == 0o640


def test_nothing_to_fold_is_an_error_with_the_report(tmp_path: Path) -> None:
    path = saved(model([convolution("conv.weight_v")], parts()), tmp_path / "m.onnx")
    with pytest.raises(NothingToConvertError, match="already a plain weight") as caught:
        fold_file(path, tmp_path / "out.onnx")
    assert [entry.fqn for entry in caught.value.report.skipped] == ["conv.weight_v"]
    assert names(tmp_path) == ["m.onnx"]


def test_what_does_not_prove_is_not_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def differ(function: str, files: object, *arguments: object) -> object:
        if function.endswith(":prove"):
            raise VerificationError("differs")
        return confined(function, files, *arguments)

    confined = conversion.confined
    monkeypatch.setattr(conversion, "confined", differ)
    with pytest.raises(VerificationError):
        fold_file(path, path.with_name("out.onnx"))
    assert names(path.parent) == ["m.onnx"]


def test_a_model_on_which_onnxruntime_dies_is_folded_and_that_is_said(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(function: str, files: object, *arguments: object) -> object:
        if function.endswith(":prove"):
            raise CheckpointError("onnxruntime died of signal 11")
        return confined(function, files, *arguments)

    confined = conversion.confined
    monkeypatch.setattr(conversion, "confined", die)
    notes = fold_file(path, path.with_name("out.onnx")).report.notes
    assert notes[0] == "outputs were not compared: onnxruntime died of signal 11"


@pytest.mark.parametrize("output", ["m.onnx", "no folder/out.onnx"])
def test_places_that_cannot_be_are_refused(path: Path, output: str) -> None:
    with pytest.raises(OutputError):
        fold_file(path, path.parent / output, force=True)
    assert names(path.parent) == ["m.onnx"]


def test_links_are_not_followed_and_not_replaced(path: Path) -> None:
    target, link = path.with_name("target"), path.with_name("out.onnx.data")
    target.write_bytes(b"mine")
    link.symlink_to(target)
    with pytest.raises(OutputError, match="link"):
        fold_file(path, path.with_name("out.onnx"), force=True)
    assert target.read_bytes() == b"mine"


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        fold_file(tmp_path / "m.onnx", None)
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is empty"):
        fold_file(tmp_path / "m.onnx", None)


def test_a_model_in_memory_stays_as_it_is() -> None:
    before = loaded(one_layer())
    after, report = fold(before)
    assert ops(before.graph) == ["ReduceL2", "Div", "Mul", "Conv"]
    assert ops(after.graph) == ["Conv"]
    assert [entry.fqn for entry in report.converted] == ["conv.weight"]
    assert isinstance(after, ir.Model)
    with pytest.raises(NothingToConvertError):
        fold(after)
    with pytest.raises(NothingToConvertError, match="not included by"):
        fold(before, Selection(include=("other",)))
