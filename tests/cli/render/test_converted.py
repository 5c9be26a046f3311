"""What is printed for people."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.cli.conftest import report, run, run_process


def test_shared_parts_are_shown(plain: Path) -> None:
    rows = [line.split() for line in run("apply", plain, "-s", "network_norm").out.splitlines()]
    assert ["model.2.weight", "3\N{MULTIPLICATION SIGN}16", "none", "network_v", "+", "network_g"] in rows


def test_weights_in_a_wrapper_have_the_names_and_shapes_of_the_file(folder: Path) -> None:
    vectors = {"l.module.weight_u": torch.ones(3), "l.module.weight_v": torch.ones(4)}
    torch.save({**vectors, "l.module.weight_bar": torch.ones(3, 4)}, "bar.pt")
    shape = "3\N{MULTIPLICATION SIGN}4"
    for command, parts in ((["fold"], ["u", "v", "bar"]), (["migrate", "--to", "hook"], ["orig", "u", "v"])):
        rows = [line.split() for line in run(*command, "bar.pt", "--dry-run").out.splitlines()]
        assert ["weight", "shape", "kept", "dim", "parts"] in rows
        (row,) = [row for row in rows if row[:1] == ["l.module.weight"]]
        assert row[1:3] == [shape, "0"]
        assert sorted(row[3:]) == sorted(parts)


def test_the_kept_dim_is_part_of_the_json(plain: Path) -> None:
    entries = report(run("apply", plain, "--json", "-i", "0"))["converted"]
    assert [(entry["dims"], entry["kept_dim"]) for entry in entries] == [([1, 2, 3], [0])]
    entries = report(run("apply", plain, "--json", "--force", "--dim", "none", "-i", "0"))["converted"]
    assert [(entry["dims"], entry["kept_dim"]) for entry in entries] == [([0, 1, 2, 3], [])]


def test_skipped_weights_are_listed_by_reason(plain: Path) -> None:
    outcome = run("apply", plain, "-i", "0")
    assert "skipped:   not included by '0' (model.2.weight and 1 more)" in outcome.out


def test_many_alike_weights_share_a_row(folder: Path) -> None:
    torch.save({f"blocks.{i}.{j}.weight": torch.ones(2, 3) for i in range(30) for j in range(2)}, "many.pt")
    outcome = run("apply", "many.pt")
    rows = [line.split() for line in outcome.out.splitlines() if line.startswith("  ")]
    assert [row[:2] for row in rows] == [["weight", "count"], ["blocks.*.*.weight", "60"]]


def test_a_narrow_encoding_does_not_matter(plain: Path, folder: Path) -> None:
    code = "import sys; sys.stdout.reconfigure(encoding='ascii')"
    outcome = run_process("apply", plain, cwd=folder, code=code)
    assert outcome.code == 0, outcome.err
    assert "4?1?3?3" in outcome.out
