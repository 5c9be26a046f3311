"""How two files differ, as it is shown."""

from __future__ import annotations

import pytest
import torch

from tests.cli.conftest import report, run


@pytest.fixture
def _files(folder):
    torch.manual_seed(0)
    weight = torch.randn(3, 4)
    torch.save({"0.weight": weight, "0.bias": torch.ones(3), "1.weight": weight}, "old.pt")
    odd = torch.full((2, 4), float("nan"))
    torch.save({"0.weight": weight * 1.5, "0.bias": torch.ones(3), "1.weight": odd, "n": odd}, "new.pt")


@pytest.mark.usefixtures("_files")
def test_what_differs_has_a_row():
    outcome = run("inspect", "new.pt", "--against", "old.pt")
    assert (outcome.code, outcome.err) == (0, "")
    header, *rows = outcome.out.partition("against ")[2].splitlines()
    assert header == "old.pt: 1 of 3 tensors equal, 2 changed, 1 extra"
    assert rows[0].split() == ["tensor", "shape", "dtype", "norm", "change", "angle", "widest"]
    cells = [[cell for cell in row.split("  ") if cell] for row in rows[1:]]
    times = "\N{MULTIPLICATION SIGN}"
    first, second, third = ([cell.strip() for cell in row] for row in cells)
    assert (first[:4], first[5]) == (["0.weight", "changed", f"3{times}4", "float32"], "50.00%")
    assert second[:3] == ["1.weight", "changed", f"3{times}4 -> 2{times}4"]
    assert second[-1].endswith("-> not finite")
    assert third == ["n", "extra", f"2{times}4", "float32"]


@pytest.mark.usefixtures("_files")
@pytest.mark.parametrize("columns", ["40", "80"])
def test_on_narrow_screens_nothing_is_cut(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    out = run("inspect", "new.pt", "--against", "old.pt").out
    assert max(map(len, out.splitlines())) <= int(columns)
    assert all(text in out for text in ("0.weight changed", "50.00%", "not finite", "n extra"))


@pytest.mark.usefixtures("_files")
def test_equal_files_have_no_table():
    assert run("inspect", "old.pt", "--against", "old.pt").out.endswith("against old.pt: 3 of 3 tensors equal\n")
    data = report(run("inspect", "new.pt", "--against", "old.pt", "--json"))["against"]
    assert (data["file"], data["compared"], data["equal"]) == ("old.pt", 3, 1)
    assert [each["status"] for each in data["differing"]] == ["changed", "changed", "extra"]
    assert report(run("inspect", "new.pt", "--json"))["against"] is None
