"""What a project takes for granted is heard, named, and never stronger than the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import NO_TORCH, document, run, run_fresh
from wnconvert_cli.defaults import nearest


def project(text: str, folder: Path | None = None) -> Path:
    path = (folder or Path.cwd()) / "pyproject.toml"
    path.write_text(text)
    return path


def test_a_default_holds_and_is_named(plain: Path) -> None:
    path = project("[tool.wnconvert]\nformat = 'torch_zip'\nstrict = false\n[tool.wnconvert.apply]\nexclude = ['2']\n")
    outcome = run("apply", plain, "--json")
    data = document(outcome)
    assert data["defaults"] == {
        "file": str(path),
        "options": {"format": "torch_zip", "strict": False, "exclude": ["2"]},
    }
    assert (data["options"]["format"], data["options"]["exclude"]) == ("torch_zip", ["2"])
    assert data["files"][0]["output"] == str(plain.parent / "model.weight_norm.pt")
    (note,) = (line for line in outcome.err.splitlines() if "defaults of" in line)
    assert note == f"note: defaults of {str(path)!r}: --format 'torch_zip', --strict no, --exclude ['2']"


def test_the_command_line_wins(plain: Path) -> None:
    project("[tool.wnconvert]\nscheme = 'spectral_norm'\nrecord = false\n")
    data = document(run("apply", plain, "-s", "weight_norm", "--json"))
    assert data["options"]["scheme"] == "weight_norm"
    assert data["defaults"] is None
    data = document(run("fold", "model.weight_norm.pt", "--record", "-s", "weight_norm", "--json"))
    assert data["options"]["record"] is True


def test_a_table_of_a_command_goes_before_and_holds_for_it_alone(plain: Path) -> None:
    project("[tool.wnconvert]\nmin-size = 1\n[tool.wnconvert.apply]\nmin-size = 30\n")
    entry = document(run("apply", plain, "--json"))
    assert entry["options"]["min_size"] == 30
    assert document(run("fold", "model.weight_norm.pt", "--json"))["options"]["min_size"] == 1
    assert document(run("schemes", "--json"))["defaults"] is None


def test_what_a_command_must_be_told_may_come_from_there(plain: Path) -> None:
    assert run("apply", plain).code == 0
    project("[tool.wnconvert.migrate]\nto = 'parametrization'\n")
    assert run("migrate", "model.weight_norm.pt").code == 0


def test_folders_are_from_where_the_file_stands(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out").mkdir()
    Path("deep/er").mkdir(parents=True)
    project("[tool.wnconvert]\noutput-dir = 'out'\n")
    monkeypatch.chdir("deep/er")
    assert run("apply", "../../model.pt").code == 0
    assert (plain.parent / "out" / "model.weight_norm.pt").exists()
    data = document(run("apply", "../../model.pt", "-o", "here.pt", "--json"))
    assert (data["defaults"], data["options"]["output_dir"]) == (None, None)
    assert Path("here.pt").exists()


def test_the_nearest_file_counts_alone(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project("[tool.wnconvert]\nbogus = 1\n")
    inner = Path("inner")
    inner.mkdir()
    project("this is no TOML, and of another tool", inner)
    monkeypatch.chdir(inner)
    assert run("apply", "../model.pt").code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("strct = true", "there is no option 'strct'; did you mean 'strict'?"),
        ("min_size = 3", "there is no option 'min_size'; did you mean 'min-size'?"),
        ("strict = 'yes'", "'strict' is 'yes'; make it true or false"),
        ("strict = 1", "'strict' is 1; make it true or false"),
        ("min-size = true", "'min-size' is True; make it a whole number"),
        ("min-size = -1", "'min-size' is -1; see 'wnconvert "),
        ("tolerance = '0'", "'tolerance' is '0'; make it a number"),
        ("exclude = 'a'", "'exclude' is 'a'; make it a list of texts"),
        ("exclude = [1]", "'exclude' is [1]; make it a list of texts"),
        ("optimizer = 'dorp'", "'optimizer' is 'dorp'; see 'wnconvert "),
        ("format = 3", "'format' is 3; make it a text"),
        ("trust = true", "'trust' is not for a project to set; say it in each call that wants it"),
        ("model = 'a:b'", "'model' is not for a project to set; say it in each call that wants it"),
        ("force = true", "'force' is not for a project to set; say it in each call that wants it"),
        ("json = true", "'json' is not for a project to set; say it in each call that wants it"),
        ("[tool.wnconvert.flod]", "there is no command 'flod'; did you mean 'fold'?"),
        ("[tool.wnconvert.verify]\nstrict = true", "there is no option 'strict' of verify; did you mean 'state-dict'?"),
        ("x = ", "it is no TOML: "),
        (f"x = {'[' * 5000}", "it is no TOML: "),
        ("[[tool.other]]\n[tool]\nwnconvert = 3", "it is no TOML: "),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(plain: Path, text: str, said: str) -> None:
    path = project(f"[tool.wnconvert]\n{text}\n")
    before = sorted(Path().iterdir())
    for command in (["apply", plain], ["layouts"]):
        outcome = run(*command)
        assert outcome.code == 2
        assert outcome.error.startswith(f"[tool.wnconvert] in {str(path)!r}: {said}")
        assert document(run(*command, "--json"))["error"]["kind"] == "OptionError"
    assert sorted(Path().iterdir()) == before


def test_a_table_that_is_none_is_refused(plain: Path) -> None:
    project("[tool]\nwnconvert = 3\n")
    assert run("apply", plain).error.endswith("tool.wnconvert is 3; make it a table, [tool.wnconvert]")


def test_help_is_shown_whatever_the_project_says(plain: Path) -> None:
    project("[tool.wnconvert]\nbogus = 1\n")
    for given in (["--help"], ["fold", "--help"], ["fold"], ["--version"]):
        outcome = run(*given)
        assert "bogus" not in outcome.err, given
        assert outcome.out


def test_silence_is_for_the_call_to_ask(plain: Path) -> None:
    project("[tool.wnconvert]\nquiet = true\n")
    assert "--quiet yes" in run("apply", plain).err
    assert run("apply", plain, "-q", "--force").err == ""


def test_reading_them_needs_no_torch(folder: Path) -> None:
    project("[tool.wnconvert]\nstrict = true\n")
    done = run_fresh("schemes", "--json", cwd=folder, code=NO_TORCH)
    assert "HEAVY" not in done.out
    done = run_fresh("fold", "--hlp", cwd=folder, code=NO_TORCH)
    assert (done.code, "HEAVY" in done.out) == (2, False)


def test_every_default_is_an_option_of_some_command() -> None:
    from typer.main import get_command

    from wnconvert_cli.defaults import ALLOWED, EXCLUDED_BY
    from wnconvert_cli.main import app

    group = get_command(app)
    opts = {text for command in group.commands.values() for each in command.params for text in each.opts}  # type: ignore[attr-defined]
    assert {f"--{name}" for name in ALLOWED} <= opts
    names = {*EXCLUDED_BY, *(other for others in EXCLUDED_BY.values() for other in others)}
    assert {f"--{name.replace('_', '-')}" for name in names} <= opts


def test_a_folder_that_may_not_be_searched_has_no_defaults(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    assert nearest() is None
