"""One JSON document, whatever happens; the exit code is in it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import jsonschema
import pytest
import torch

import wnconvert
from tests.cli import documents
from tests.cli.conftest import document, run, run_process
from wnconvert_cli.answer import SCHEMA, Answer
from wnconvert_cli.exits import MEANINGS


@pytest.mark.parametrize(
    ("arguments", "code", "kind", "command"),
    [
        (["apply", "model.pt"], 0, None, "apply"),
        (["fold", "model.pt"], 3, "NothingToConvertError", "fold"),
        (["fold", "gone.pt"], 1, "CheckpointError", "fold"),
        (["apply", "model.pt", "-o", "no/x.pt"], 1, "OutputError", "apply"),
        (["apply", "model.pt", "-s", "weight_nrom"], 2, "UnknownNameError", "apply"),
        (["apply", "model.pt", "-O", "p=x"], 2, "OptionError", "apply"),
        (["apply", "model.pt", "--bogus"], 2, "UsageError", "apply"),
        (["apply", "model.pt", "--min-size", "x"], 2, "UsageError", "apply"),
        (["apply", "model.pt", "--optimizer", "x"], 2, "UsageError", "apply"),
        (["migrate", "model.pt"], 2, "UsageError", "migrate"),
        (["apply"], 2, "UsageError", "apply"),
        (["aply", "model.pt"], 2, "UsageError", None),
        ([], 2, "UsageError", None),
        (["inspect", "model.pt"], 0, None, "inspect"),
        (["inspect", "gone.pt"], 1, "CheckpointError", "inspect"),
        (["verify", "model.pt", "model.pt"], 0, None, "verify"),
        (["verify", "model.pt", "gone.pt"], 1, "CheckpointError", "verify"),
        (["schemes"], 0, None, "schemes"),
        (["schemes", "weight_nrom"], 2, "UnknownNameError", "schemes"),
        (["layouts"], 0, None, "layouts"),
    ],
)
def test_there_is_one_document_however_it_ends(
    arguments: list[str], code: int, kind: str | None, command: str | None, plain: Path
) -> None:
    for given in ([*arguments, "--json"], [arguments[0], "--json", *arguments[1:]] if arguments else ["--json"]):
        outcome = run(*given, *(["--force"] if command == "apply" and code == 0 else []))
        data = document(outcome)
        assert outcome.code == code, outcome.err
        assert (data["schema"], data["version"]) == (SCHEMA, wnconvert.__version__)
        assert data["command"] == command
        assert (data["error"] and data["error"]["kind"]) == kind


def test_help_is_no_document(plain: Path) -> None:
    for given in (["--help"], ["apply", "--json", "--help"], ["schemes", "--json", "-h"]):
        outcome = run(*given)
        assert outcome.code == 0
        assert "Usage:" in outcome.out


def test_without_the_option_there_is_none(plain: Path) -> None:
    for given in (["apply", "--bogus"], ["fold", plain], ["inspect", "gone.pt"], ["apply", "--", "--json"]):
        assert run(*given).out == ""


def test_the_options_that_hold_are_in_it(plain: Path) -> None:
    options = document(run("apply", plain, "-i", "2", "-x", "3", "--min-size", "2", "-d", ".", "--json"))["options"]
    shown = {name: options[name] for name in ("include", "exclude", "min_size", "output_dir", "optimizer", "scheme")}
    assert shown == {
        "include": ["2"],
        "exclude": ["3"],
        "min_size": 2,
        "output_dir": ".",
        "optimizer": "drop",
        "scheme": None,
    }
    assert "json" not in options
    assert "files" not in options


def test_what_was_found_is_told_where_there_is_nothing_to_do(plain: Path) -> None:
    run("apply", plain)
    outcome = run("apply", "model.weight_norm.pt", "--json")
    assert outcome.code == 3
    (entry,) = document(outcome)["files"]
    assert entry["layouts"] == {"weight_norm_hook": 3}
    assert (entry["format"], entry["output"], entry["exact"]) == ("torch zip", None, None)
    assert {each["why"] for each in entry["skipped"]} == {"ALREADY_SPLIT"}
    outcome = run("apply", plain, "-i", "nothing", "--json", "--force")
    assert outcome.code == 3
    (entry,) = document(outcome)["files"]
    assert {each["why"] for each in entry["skipped"]} == {"NOT_CHOSEN"}


def test_warnings_and_notes_are_in_it(plain: Path) -> None:
    outcome = run("apply", plain, "-s", "unit_norm", "--json")
    (entry,) = document(outcome)["files"]
    assert [f"warning: {text}" for text in entry["warnings"]] == outcome.err.splitlines()
    assert entry["exact"] is False


def test_names_that_are_no_unicode_stay_json(folder: Path) -> None:
    name = b"caf\xe9\x1b[31m.pt".decode("utf-8", "surrogateescape")
    torch.save({"a\ud800.weight": torch.ones(2, 2), "b\x1b.weight": torch.full((2, 2), torch.nan)}, folder / name)
    for command in (["apply"], ["inspect"], ["fold"]):
        outcome = run(*command, name, "gone\udce9", "--json")
        text = json.dumps(document(outcome), ensure_ascii=False)  # refused where a number is none
        text.encode()  # half a surrogate pair could not be
        assert document(outcome)["files"][0]["input"] == "caf\\udce9\x1b[31m.pt"


#: a command whose process gets a signal while it verifies the second of the files that it wrote
STOPPED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
number = int(sys.argv.pop(1))
import wnconvert.checkpoint as c
verify, done = c.verify_apply, []
def stop(*args):
    verify(*args)
    done.append(args)
    if len(done) == 2:
        signal.raise_signal(number)
        raise AssertionError("it goes on")
c.verify_apply = stop
"""


@pytest.mark.parametrize(
    ("signum", "kind"),
    [(signal.SIGTERM, "Terminated"), (signal.SIGINT, "Interrupted")],
    ids=["SIGTERM", "SIGINT"],
)
def test_what_was_done_before_it_was_stopped_is_told(folder: Path, signum: signal.Signals, kind: str) -> None:
    for name in "abc":
        torch.save({"a.weight": torch.ones(4, 4)}, f"{name}.pt")
    outcome = run_process(int(signum), "apply", "a.pt", "b.pt", "c.pt", "--json", cwd=folder, code=STOPPED)
    data = document(outcome)
    assert outcome.code == 128 + signum
    assert data["error"]["kind"] == kind
    assert data["error"]["message"].endswith("1 of 3 files done before, nothing written of the others")
    assert [entry["exit_code"] for entry in data["files"]] == [0, outcome.code]
    assert [entry["output"] for entry in data["files"]] == ["a.weight_norm.pt", None]
    assert "Traceback" not in outcome.err


def test_a_bug_has_a_document_and_a_traceback(plain: Path, folder: Path) -> None:
    code = "import wnconvert.checkpoint as c\ndef bug(*a, **k): raise ZeroDivisionError('oh')\nc.load = bug"
    outcome = run_process("apply", plain, "--json", cwd=folder, code=code)
    assert document(outcome)["error"]["kind"] == "ZeroDivisionError"
    assert outcome.code == 1
    assert "Traceback" in outcome.err


def test_the_command_is_known_from_what_was_typed() -> None:
    assert Answer.to(["fold", "--json"], {"fold"}) == Answer(json=True, command="fold")
    assert Answer.to(["--version", "fold", "--", "--json"], {"fold"}) == Answer(json=False, command="fold")
    assert Answer.to(["x"], {"fold"}) == Answer()


def test_the_schema_would_see_what_is_wrong(plain: Path) -> None:
    good = document(run("apply", plain, "--json"))
    documents.check(good)
    (entry,) = good["files"]
    (skipped,) = document(run("apply", plain, "-x", "0", "-x", "2", "--json", "--force"))["files"][0]["skipped"][:1]
    for bad in (
        {**good, "schema": 2},
        {**good, "more": 1},
        {**good, "exit_code": 1},
        {**good, "error": {"kind": "X", "message": "x", "input": None}},
        {key: value for key, value in good.items() if key != "options"},
        {**good, "files": [{**entry, "output": 3}]},
        {**good, "files": [{**entry, "more": 1}]},
        {**good, "files": [{**entry, "skipped": [{**skipped, "more": 1}]}]},
        {**good, "files": [{key: value for key, value in entry.items() if key != "layouts"}]},
        {**good, "files": [{**entry, "converted": [{**entry["converted"][0], "max_abs_error": None}]}]},
    ):
        with pytest.raises((jsonschema.ValidationError, AssertionError)):
            documents.check(bad)
    with pytest.raises(ValueError, match="is no number of JSON"):
        documents.parse('{"schema": NaN}')


def test_the_schema_names_the_version_that_is_written() -> None:
    jsonschema.Draft202012Validator.check_schema(documents.SCHEMA)
    assert documents.SCHEMA["properties"]["schema"] == {"const": SCHEMA}
    assert set(documents.SCHEMA["$defs"]["exit_code"]["enum"]) == set(MEANINGS)
