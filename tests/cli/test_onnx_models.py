"""ONNX models on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import report, run
from tests.onnx_files.graphs import convolution, model, node, normed, one_layer, ops, parts, saved, weights
from wnconvert.onnx_files import needed


@pytest.fixture
def path(folder: Path) -> Path:
    return saved(one_layer(), Path("m.onnx"))


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_fold_writes_beside_the_input_and_says_what_it_did(path: Path, folder: Path) -> None:
    outcome = run("fold", path)
    assert outcome.code == 0, outcome.err
    assert ops(Path("m.folded.onnx")) == ["Conv"]
    assert names(folder) == ["m.folded.onnx", "m.onnx"]
    assert "note: outputs compared in onnxruntime on 3 random inputs" in outcome.err
    assert "note: 4 nodes became 1, and 0 weights are still computed" in outcome.err
    for text in ("conv.weight", "1 weight (weight_norm)", "m.folded.onnx (ONNX"):
        assert text in outcome.out


def test_the_document_is_that_of_every_conversion(path: Path) -> None:
    entry = report(run("fold", path, "--json", "-o", "out.onnx"))
    assert (entry["format"], entry["output"], entry["exact"], entry["verified"]) == ("ONNX", "out.onnx", True, 1)
    (converted,) = entry["converted"]
    assert (converted["fqn"], converted["op"], converted["scheme"]) == ("conv.weight", "Conv", "weight_norm")
    assert len(entry["notes"]) == 3


def test_a_dry_run_writes_nothing(path: Path, folder: Path) -> None:
    outcome = run("fold", path, "--dry-run")
    assert outcome.code == 0
    assert "it would be m.folded.onnx" in outcome.out
    assert names(folder) == ["m.onnx"]


def test_an_output_is_replaced_only_on_request(path: Path, folder: Path) -> None:
    assert run("fold", path).code == 0
    assert "'m.folded.onnx' exists; give --force" in run("fold", path).error
    assert run("fold", path, "--force").code == 0
    assert names(folder) == ["m.folded.onnx", "m.onnx"]


def test_nothing_to_fold_is_exit_code_3(folder: Path) -> None:
    saved(model([convolution("conv.weight_v")], parts()), Path("m.onnx"))
    outcome = run("fold", "m.onnx", "--json")
    assert outcome.code == 3
    assert json.loads(outcome.out)["files"][0]["skipped"][0]["why"] == "ALREADY_PLAIN"


def test_several_models_go_to_a_folder(path: Path, folder: Path) -> None:
    saved(one_layer(), Path("n.onnx"))
    Path("out").mkdir()
    assert run("fold", path, "n.onnx", "--output-dir", "out").code == 0
    assert names(folder / "out") == ["m.folded.onnx", "n.folded.onnx"]


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_strictly_nothing_is_written_where_a_weight_is_skipped(folder: Path, more: tuple[str, ...]) -> None:
    nodes = [
        *normed("conv.weight_g", "conv.weight_v", "w"),
        convolution(y="h"),
        node("RandomNormal", [], "noise", shape=[8, 8, 3]),
        convolution("noise", x="h"),
    ]
    path = saved(model(nodes, parts()), Path("m.onnx"))
    outcome = run("fold", path, "--strict", *more)
    assert outcome.code == 1
    assert outcome.error.startswith("1 converted, 1 NOT: ")
    told = json.loads(run("fold", path, "--strict", "--json", *more).out)
    assert told["error"]["kind"] == "IncompleteError"
    assert names(folder) == ["m.onnx"]
    assert run("fold", path, *more).code == 0


def test_weights_are_chosen_by_name(path: Path) -> None:
    outcome = run("fold", path, "--exclude", "conv*")
    assert outcome.code == 3
    assert "excluded by 'conv*'" in outcome.err
    assert run("fold", path, "--include", "conv").code == 0
    assert weights(Path("m.folded.onnx")).keys() == {"conv.bias", "conv.weight"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "a:b"),
        ("--only", "x"),
        ("--trust",),
        ("--state-dict",),
        ("--format", "npz"),
        ("--optimizer", "keep"),
    ],
)
def test_options_of_checkpoints_are_refused(path: Path, folder: Path, arguments: tuple[str, ...]) -> None:
    outcome = run("fold", path, *arguments)
    assert outcome.code == 2
    assert f"leave out {arguments[0]}" in outcome.error
    assert names(folder) == ["m.onnx"]


def test_an_output_has_a_name_that_fits(path: Path) -> None:
    assert "named like another container" in run("fold", path, "-o", "out.pt").error
    assert "cannot go to standard output" in run("fold", path, "-o", "-").err


@pytest.mark.parametrize("command", [("apply",), ("migrate", "--to", "hook"), ("fold", "--scheme", "weight_norm")])
def test_other_commands_say_which_take_it(path: Path, command: tuple[str, ...]) -> None:
    outcome = run(*command, path)
    assert outcome.code == 1
    assert "is an ONNX model, which fold" in outcome.error


def test_without_the_extra_the_way_to_get_it_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needed, "find_spec", lambda name: None)
    outcome = run("fold", path)
    assert outcome.code == 2
    assert "pip install 'wnconvert[onnx]'" in outcome.error


def test_damaged_models_are_one_line(folder: Path) -> None:
    data = one_layer().SerializeToString()
    Path("m.onnx").write_bytes(data[: len(data) // 2])
    outcome = run("fold", "m.onnx")
    assert outcome.code == 1
    assert "is no ONNX model, or is damaged" in outcome.error
    assert names(folder) == ["m.onnx"]


def test_inspect_shows_which_weights_are_computed(path: Path) -> None:
    outcome = run("inspect", path)
    assert outcome.code == 0, outcome.err
    for text in ("(ONNX,", "1 weight under weight_norm", "4 nodes, opset 17", "leaves 1 convolution in floating"):
        assert text in " ".join(outcome.out.split())
    entry = report(run("inspect", path, "--json"))
    assert entry["format"] == "ONNX"
    assert entry["state_dicts"][0]["schemes"] == {"weight_norm": 1}
    (finding,) = entry["findings"]
    assert (finding["topic"], finding["fqns"]) == ("quantization", ["conv.weight"])
    assert "dynamic quantizer fails, or leaves 1 convolution in floating point" in finding["problem"]


def test_verify_compares_what_models_compute_with(path: Path) -> None:
    assert run("fold", path).code == 0
    outcome = run("verify", path, "m.folded.onnx")
    assert outcome.code == 0, outcome.err
    for text in ("2 tensors", "1 weight composed from parts", "bit-identical"):
        assert text in outcome.out
    saved(model([convolution("conv.weight_v")], parts()), Path("other.onnx"))
    outcome = run("verify", path, "other.onnx", "--json")
    assert outcome.code == 4
    assert json.loads(outcome.out)["comparison"]["only_first"] == ["conv.weight"]
