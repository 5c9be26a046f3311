"""What `apply`, `fold` and `migrate` have in common: when something is written, and what is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.cli.conftest import check_refused, document, report, run, run_process, sha
from wnconvert.checkpoint import bits_equal, difference


def test_a_scheme_that_changes_the_function_says_so_first(plain: Path) -> None:
    outcome = run("apply", plain, "-s", "unit_norm")
    assert outcome.code == 0
    assert outcome.err.startswith("warning: unit_norm does not preserve the function")
    assert "not identical to the input's" in outcome.out
    assert "bit-identical" not in outcome.out
    assert run("apply", plain, "-s", "unit_norm", "--force", "-q").err == outcome.err


def test_a_dry_run_writes_nothing(plain: Path, folder: Path) -> None:
    outcome = run("apply", plain, "--dry-run")
    assert outcome.code == 0
    assert "nothing written" in outcome.out
    assert "verified" not in outcome.out
    assert [path.name for path in folder.iterdir()] == ["model.pt"]
    assert report(run("apply", plain, "--dry-run", "--json"))["output"] is None


def test_quiet_says_nothing(plain: Path) -> None:
    outcome = run("apply", plain, "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert Path("model.weight_norm.pt").exists()


def test_stale_optimizer_state_is_part_of_the_result(folder: Path) -> None:
    net = nn.Linear(2, 3)
    torch.save({"model": net.state_dict(), "optim": torch.optim.SGD(net.parameters()).state_dict()}, "train.pt")
    outcome = run("apply", "train.pt")
    assert "optimizer: 'optim' is left out" in outcome.out
    assert outcome.err == ""
    again = run("apply", "train.pt", "--json", "--force", "--optimizer", "reset")
    assert report(again)["optimizers"] == [{"path": "optim", "became": "reset"}]
    groups = torch.load("train.weight_norm.pt")["optim"]["param_groups"]
    assert [group["params"] for group in groups] == [[0, 1, 2]]


@pytest.mark.parametrize("scheme", ["weight_norm", "weight_standardization", "network_norm"])
def test_a_whole_model_goes_there_and_back(whole: Path, scheme: str) -> None:
    source = torch.load(whole, weights_only=False)
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert "2 weights bit-identical" in run("apply", whole, "--trust", "-s", scheme).out
    assert "2 weights bit-identical" in run("fold", f"whole.{scheme}.pt", "--trust").out
    for path in (f"whole.{scheme}.pt", f"whole.{scheme}.folded.pt"):
        assert bits_equal(torch.load(path, weights_only=False)(x), source(x))
    folded = torch.load(f"whole.{scheme}.folded.pt", weights_only=False)
    assert difference(source.state_dict(), folded.state_dict()) is None


def test_a_whole_model_needs_trust(whole: Path, folder: Path) -> None:
    outcome = run("apply", whole)
    assert outcome.code == 1
    assert "would run code that it names: torch.nn.modules.container.Sequential; give --state-dict" in outcome.error
    assert "--trust" in outcome.error
    assert [path.name for path in folder.iterdir()] == ["whole.pt"]


def test_a_whole_model_is_its_own_model(whole: Path) -> None:
    assert "leave out --model" in run("apply", whole, "--trust", "-m", "a:b").error
    assert "no weighted op 'conv3d'" in run("apply", whole, "--trust", "--op", "conv3d").error


def test_a_whole_model_is_converted_once(whole: Path) -> None:
    run("apply", whole, "--trust")
    outcome = run("apply", "whole.weight_norm.pt", "--trust")
    assert outcome.code == 3
    assert "nothing to convert: already" in outcome.error


def test_the_result_loads_where_wnconvert_is_not(whole: Path) -> None:
    run("apply", whole, "--trust")
    code = (
        "import sys, torch\n"
        "assert 'wnconvert' not in sys.modules\n"
        "sys.modules['wnconvert'] = None\n"
        "print(torch.load('whole.weight_norm.pt', weights_only=False)(torch.ones(1, 1, 4, 4)).shape)\n"
        "sys.exit()\n"
    )
    assert run_process(cwd=Path.cwd(), code=code).out == "torch.Size([1, 3])\n"


def test_a_bad_output_is_refused_before_any_work(plain: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*args: object, **kwargs: object) -> None:
        raise AssertionError("the file was read")

    monkeypatch.setattr("wnconvert.checkpoint.load", work)
    check_refused(run("apply", plain, "-o", "no/out.pt"), 1, "is in no existing folder", folder, "model.pt")


def test_a_failed_verification_leaves_nothing(plain: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wnconvert.checkpoint.formats.torch_zip import TorchZipFormat

    def damage(self: TorchZipFormat, checkpoint: object, path: Path) -> None:
        torch.save({"model": {"0.weight_g": torch.ones(1)}}, path)

    monkeypatch.setattr(TorchZipFormat, "write", damage)
    before = sha(plain)
    check_refused(run("apply", plain), 4, "not what was to be written", folder, "model.pt")
    assert sha(plain) == before


@pytest.fixture
def half(folder: Path) -> Path:
    """Of these two weights one can be folded: on a square matrix nothing shows which dim a spectral norm keeps."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)), nn.utils.spectral_norm(nn.Linear(4, 4)))
    torch.save(net.state_dict(), "half.pt")
    return folder / "half.pt"


def test_strictly_all_that_was_asked_for_is_converted_or_nothing_is_written(half: Path, folder: Path) -> None:
    outcome = run("fold", half, "--strict")
    assert outcome.error.startswith("1 converted, 1 NOT: its parts do not show the kept dim")
    assert (outcome.code, outcome.out, [path.name for path in folder.iterdir()]) == (1, "", ["half.pt"])
    (entry,) = document(run("fold", half, "--strict", "--json"))["files"]
    assert entry["error"]["kind"] == "IncompleteError"
    assert [(each["why"], each["missed"]) for each in entry["skipped"]] == [("DIM", True)]
    assert (entry["output"], entry["verified"]) == (None, 0)
    for more in (["--exclude", "1"], ["--include", "0*"], ["--dim", "0"]):
        assert run("fold", half, "--strict", "--force", *more).code == 0


def test_strictly_nothing_to_do_is_no_failure_but_what_cannot_be_done_is(half: Path, plain: Path) -> None:
    assert run("fold", half, "--include", "1").code == 3
    outcome = run("fold", half, "--include", "1", "--strict")
    assert (outcome.code, outcome.out) == (1, "")
    run("apply", plain)
    assert run("apply", "model.weight_norm.pt", "--strict").code == 3
    assert run("apply", plain, "--include", "nothing", "--strict", "--force").code == 3


def test_what_is_left_out_is_not_asked_for_whatever_else_it_is(folder: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4)), nn.Linear(3, 4))
    torch.save({"net": net.state_dict()}, "mixed.pt")
    for layout in ([], ["--layout", "parametrization"]):
        whole = run("apply", "mixed.pt", "--strict", *layout)
        assert (whole.code, whole.error[:20]) == (1, "1 converted, 1 NOT: ")
        for left_out in ("0", "net.0", "0.weight"):
            entry = report(run("apply", "mixed.pt", "--strict", "--json", "--force", "-x", left_out, *layout))
            assert [(each["why"], each["missed"]) for each in entry["skipped"]] == [("NOT_CHOSEN", False)]
