from __future__ import annotations

import pytest

from tests.cli.conftest import document, run
from wnconvert.scheme import SCHEMES


def test_all_schemes_are_listed() -> None:
    outcome = run("schemes")
    assert (outcome.code, outcome.err) == (0, "")
    for name in SCHEMES:
        kind = SCHEMES.get(name)
        assert {name, kind.formula, kind.reference} <= {
            text for line in outcome.out.splitlines() for text in cells(line)
        }


def cells(line: str) -> list[str]:
    return [line[:31].strip(), line[31:].strip()]


@pytest.mark.parametrize("name", list(SCHEMES))
def test_each_scheme_is_described(name: str) -> None:
    outcome = run("schemes", name)
    assert outcome.code == 0
    assert SCHEMES.get(name).formula in outcome.out
    (data,) = document(run("schemes", name, "--json"))["schemes"]
    assert data["parts"] == [list(parts) for parts in SCHEMES.get(name).variants]
    for option, facts in data["options"].items():
        assert facts["meaning"], f"{name}.{option} is not explained"
        assert facts["meaning"] in outcome.out


def test_an_unknown_scheme_is_suggested() -> None:
    outcome = run("schemes", "weight_nrom")
    assert outcome.code == 2
    assert "did you mean 'weight_norm'?" in outcome.error
