"""The public names: complete, documented, and cheap to import."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import wnconvert
import wnconvert.checkpoint
from tests.public import listing
from wnconvert.scheme import SCHEMES


@pytest.mark.parametrize("package", [wnconvert, wnconvert.checkpoint])
def test_type_checkers_see_names_where_they_are_loaded_from(package):
    source = Path(package.__file__).read_text(encoding="utf-8")
    block = next(node for node in ast.parse(source).body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module.removeprefix(f"{package.__name__}.") for node in block.body for alias in node.names
    }
    assert seen == package._MODULE_OF
    assert list(package.__all__) == sorted(seen)


def test_dir_lists_the_public_names():
    assert set(wnconvert.__all__) <= set(dir(wnconvert))


@pytest.mark.parametrize("name", wnconvert.__all__)
def test_a_public_object_is_documented(name):
    value = getattr(wnconvert, name)
    documented = value if callable(value) else type(value)
    summary = (inspect.getdoc(documented) or "").partition("\n")[0]
    assert summary.endswith(".")
    # dataclasses make a docstring of their own: the signature
    assert not summary.startswith(f"{name}(")


@pytest.mark.parametrize("name", [name for name in wnconvert.__all__ if inspect.isclass(getattr(wnconvert, name))])
def test_the_public_methods_of_a_class_are_documented(name):
    cls = getattr(wnconvert, name)
    for attribute, value in vars(cls).items():
        if not attribute.startswith("_") and (inspect.isfunction(value) or isinstance(value, (classmethod, property))):
            assert inspect.getdoc(getattr(cls, attribute)), f"{name}.{attribute}"


def test_every_scheme_is_public(monkeypatch):
    for kind in map(SCHEMES.get, SCHEMES):
        assert getattr(wnconvert, kind.__name__) is kind
    other = type("OfAnotherDistribution", (), {})
    monkeypatch.setitem(SCHEMES._things, "other", other)
    assert wnconvert.OfAnotherDistribution is other
    monkeypatch.delitem(vars(wnconvert), "OfAnotherDistribution")
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = wnconvert.Nothing


def test_every_error_is_public():
    from wnconvert import errors

    raised = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert raised <= set(wnconvert.__all__)
    own = (errors.WnconvertError, errors.WnconvertWarning)
    assert all(issubclass(getattr(errors, name), own) for name in raised)


def test_the_drawing_of_the_error_tree_is_complete():
    from wnconvert import errors

    drawn = errors.__doc__
    for name, value in vars(errors).items():
        if inspect.isclass(value) and value.__module__ == errors.__name__:
            assert name in drawn
            line = next(line for line in drawn.splitlines() if f" {name} " in f"{line} ")
            for base in value.__bases__:
                assert base is Exception or base.__module__ != "builtins" or f"({base.__name__})" in line


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'wnconvert' has no attribute 'nothing'"):
        _ = wnconvert.nothing


@pytest.mark.parametrize(
    "statement",
    [
        "import wnconvert",
        "import wnconvert; dir(wnconvert)",
        "from wnconvert.scheme import SCHEMES; [SCHEMES.get(name) for name in SCHEMES]",
    ],
)
def test_importing_does_not_import_torch(statement):
    code = f"import sys; {statement}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_a_public_name_does_import_torch():
    code = "import sys, wnconvert; wnconvert.apply; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True"


def test_the_version_is_said_in_one_place():
    root = Path(wnconvert.__file__).parents[1]
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in project
    assert '[tool.hatch.version]\npath = "wnconvert/__init__.py"' in project
    code = "import sys, wnconvert; print(wnconvert.__version__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{wnconvert.__version__} False\n"


def test_no_public_name_or_signature_changes_by_accident():
    written = (Path(__file__).parent / "public.txt").read_text(encoding="utf-8").splitlines()
    now = listing()
    lost, new = sorted({*written} - {*now}), sorted({*now} - {*written})
    assert (lost, new) == ([], []), "if that is meant: python -m tests.public > tests/public.txt, and CHANGELOG.md"
    assert written == now


def test_the_listing_has_signatures_members_and_bases():
    text = "\n".join(listing())
    assert "wnconvert.fold(" in text
    assert "wnconvert.Report.missed: property" in text
    assert "class wnconvert.OptionError(WnconvertError, ValueError)" in text
    assert "wnconvert.checkpoint.load(" in text
    assert "wnconvert.Why.NOT_CHOSEN" in text
    assert " at 0x" not in text


def test_the_citation_names_this_version():
    root = Path(wnconvert.__file__).parents[1]
    assert f"\nversion: {wnconvert.__version__}\n" in (root / "CITATION.cff").read_text(encoding="utf-8")
