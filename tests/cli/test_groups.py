"""Options that go together reach a command as one object, and the user one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from wnconvert_cli.answer import Answer
from wnconvert_cli.groups import flattened

SEEN: list[object] = []


@dataclass(frozen=True)
class Group:
    size: Annotated[int, typer.Option("--size", help="How large.")] = 3
    names: Annotated[list[str] | None, typer.Option("--name")] = None


def command(
    first: Annotated[str, typer.Argument()],
    *,
    before: Annotated[bool, typer.Option("--before")] = False,
    group: Group,
    after: Annotated[bool, typer.Option("--after")] = False,
) -> None:
    """Say what it does."""
    SEEN.append((first, before, group, after))


@pytest.fixture
def app() -> typer.Typer:
    SEEN.clear()
    made = typer.Typer()
    made.command()(flattened(command))
    return made


def test_a_group_is_given_as_one_object(app: typer.Typer) -> None:
    CliRunner().invoke(app, ["x", "--after", "--size", "5", "--name", "a", "--name", "b"], catch_exceptions=False)
    CliRunner().invoke(app, ["x"], catch_exceptions=False)
    assert [("x", False, Group(5, ["a", "b"]), True), ("x", False, Group(), False)] == SEEN


def test_its_options_stand_where_the_group_stands(app: typer.Typer) -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    places = [
        shown.index(text) for text in ("Say what it does.", "--before", "--size", "How large.", "--name", "--after")
    ]
    assert places == sorted(places)


def test_parameters_without_annotations_are_those_of_typer() -> None:
    def plain(name, loud=False):  # type: ignore[no-untyped-def]
        SEEN.append((name, loud))

    made = typer.Typer()
    made.command()(flattened(plain))
    SEEN.clear()
    CliRunner().invoke(made, ["x", "--loud"], catch_exceptions=False)
    assert SEEN == [("x", True)]


def test_an_answer_is_that_of_the_call_and_knows_its_options() -> None:
    def answering(first: Annotated[str, typer.Argument()], group: Group, json: bool = False, *, answer: Answer) -> None:
        SEEN.append((first, group, json, answer))

    made, answer = typer.Typer(), Answer(command="answering")
    made.command()(flattened(answering))
    SEEN.clear()
    CliRunner().invoke(made, ["x", "--size", "5", "--json"], catch_exceptions=False, obj=answer)
    assert [("x", Group(5), True, answer)] == SEEN
    assert answer.options == {"size": 5, "names": ()}
    assert answer.json
