"""Names, discovery and the entry points of other distributions."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import wnconvert
from wnconvert import registry
from wnconvert.errors import WnconvertWarning
from wnconvert.registry import Registry
from wnconvert.scheme import SCHEMES, Parts, Scheme, WeightSpec


class Thing:
    """What a registry of this file holds."""

    name: ClassVar[str]


class First(Thing):
    name = "first"


Things = Registry[type[Thing]]


@pytest.fixture
def things() -> Things:
    found: Things = Registry("thing", None, "wnconvert.things", Thing)
    found.register("first")(First)
    return found


def test_a_registered_class_is_found_by_its_name(things: Things) -> None:
    assert things.get("first") is First
    assert list(things) == ["first"]


def test_an_unknown_name_is_an_error_with_the_nearest_one(things: Things) -> None:
    with pytest.raises(
        wnconvert.UnknownNameError, match=r"unknown thing 'frist'; did you mean 'first'\? \(known: first\)"
    ):
        things.get("frist")


def test_a_name_is_given_once(things: Things) -> None:
    things.register("first")(First)
    with pytest.raises(ValueError, match="'first' is already registered"):
        things.register("first")(type("Other", (Thing,), {}))


class Second(Thing):
    name = "second"


class Nameless(Thing):
    pass


class Unfinished(Thing):
    name = "unfinished"
    __abstractmethods__ = frozenset({"run"})


def fail() -> None:
    raise ImportError("no module called gone\nand more")


Offer = Callable[[dict[str, object]], None]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Let an installed distribution offer things; an exception is raised when its entry point is loaded."""

    def load(values: dict[str, object], name: str) -> object:
        value = values[name]
        return value() if value is fail else value

    def install(values: dict[str, object]) -> None:
        points = [("some-plugin 1.2", EntryPoint(name, f"some.module:{name}", "wnconvert.things")) for name in values]
        monkeypatch.setattr(registry, "offered", lambda: {"wnconvert.things": points})
        monkeypatch.setattr(EntryPoint, "load", lambda self: load(values, self.name))

    return install


def test_a_distribution_adds_things(things: Things, offer: Offer) -> None:
    offer({"second": Second})
    assert list(things) == ["first", "second"]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("gone", fail, "ImportError: no module called gone"),
        ("wrong", 3, "3 is no class that derives from Thing"),
        ("wrong", int, "<class 'int'> is no class that derives from Thing"),
        ("nameless", Nameless, "it has no 'name'"),
        ("unfinished", Unfinished, "it has no 'run'"),
        ("other", Second, "its name is 'second'"),
        ("first", type("Second", (Thing,), {"name": "first"}), "thing 'first' is already registered by"),
    ],
)
def test_what_is_wrong_with_one_is_said_and_the_others_work(
    name: str, value: object, reason: str, things: Things, offer: Offer
) -> None:
    offer({name: value, "second": Second})
    with pytest.warns(WnconvertWarning) as caught:
        assert list(things) == ["first", "second"]
    (warning,) = caught
    said = str(warning.message)
    assert said.startswith(f"the thing {name!r} of the installed some-plugin 1.2 (some.module:{name}) cannot be used: ")
    assert reason in said
    assert "\n" not in said
    assert things.get("first") is First
    if name != "first":
        with pytest.raises(wnconvert.UnknownNameError, match=r"of the installed some-plugin 1\.2"):
            things.get(name)


def test_entry_points_that_cannot_be_read(things: Things, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"broken": "second", "plug": f"second = {__name__}:Second"}.items():
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (folder / "entry_points.txt").write_text(f"[wnconvert.things]\n{text}\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry.offered.cache_clear()
    with pytest.warns(WnconvertWarning, match="the entry points of the installed broken 1 cannot be read: TypeError"):
        assert list(things) == ["first", "second"]
    registry.offered.cache_clear()


def test_a_warning_that_is_an_error_is_raised_every_time(things: Things, offer: Offer) -> None:
    offer({"gone": fail, "second": Second})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with pytest.raises(WnconvertWarning, match="some-plugin"):
                list(things)
    with pytest.warns(WnconvertWarning, match="some-plugin"):
        assert list(things) == ["first", "second"]


def test_a_package_that_cannot_be_imported_is_an_error_every_time() -> None:
    broken: Things = Registry("thing", "tests.no_such_package", "wnconvert.things")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            list(broken)


def test_another_thread_sees_all_or_waits(things: Things, offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    offer({"second": Second})
    loading, seen = threading.Event(), []
    other = threading.Thread(target=lambda: seen.append(list(things)))

    def load(self: EntryPoint) -> object:
        other.start()
        loading.wait(0.1)  # time enough to look
        assert not seen
        return Second

    monkeypatch.setattr(EntryPoint, "load", load)
    assert list(things) == ["first", "second"]
    other.join()
    assert seen == [["first", "second"]]


@dataclass(frozen=True)
class Halved(Scheme):
    """A scheme of another distribution: half of the weight is stored, twice."""

    name = "halved"
    variants: ClassVar = {("left", "right"): {}}
    direction = "left"
    formula = "w = left + right"
    reference = "none"

    def split(self, weight: Tensor, spec: WeightSpec) -> dict[str, Tensor]:
        return {"left": weight / 2, "right": weight / 2}

    def compose(self, parts: Parts, spec: WeightSpec) -> Tensor:
        return parts["left"] + parts["right"]


@pytest.fixture
def foreign_scheme(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    point = EntryPoint("halved", f"{__name__}:Halved", "wnconvert.schemes")
    monkeypatch.setattr(EntryPoint, "load", lambda self: Halved)
    monkeypatch.setattr(registry, "offered", lambda: {"wnconvert.schemes": [("halves 1", point)]})
    fresh: Registry[type[Scheme]] = Registry("scheme", "wnconvert.schemes", "wnconvert.schemes", Scheme)
    fresh._things = {name: SCHEMES.get(name) for name in SCHEMES}  # those of files register themselves but once
    for module in ("scheme", "naming"):
        monkeypatch.setattr(f"wnconvert.{module}.SCHEMES", fresh)
    yield
    from wnconvert import naming

    naming._part_names.cache_clear()
    naming._identify_parts.cache_clear()


@pytest.mark.usefixtures("foreign_scheme")
def test_a_scheme_of_another_distribution_is_applied_and_folded_by_name() -> None:
    from wnconvert import naming

    naming._part_names.cache_clear()
    naming._identify_parts.cache_clear()
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    converted, report = wnconvert.apply(model, "halved")
    assert list(converted.state_dict()) == ["weight_left", "weight_right", "bias"]
    assert torch.equal(converted(x), model(x))
    folded, report = wnconvert.fold(converted)
    assert [(entry.fqn, entry.scheme) for entry in report.converted] == [("weight", "halved")]
    assert list(folded.state_dict()) == ["weight", "bias"]


def test_names_are_told_without_importing_what_they_stand_for() -> None:
    code = (
        "import sys\n"
        "from wnconvert.checkpoint.format import FORMATS\n"
        "print(FORMATS.peek())\n"
        "FORMATS.require('npz')\n"
        "try: FORMATS.require('npy')\n"
        "except LookupError as error: print(error)\n"
        "print('torch' in sys.modules, 'wnconvert.checkpoint.formats' in sys.modules)\n"
        "print(FORMATS.peek() == list(FORMATS))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, error, imported, same = done.stdout.splitlines()
    assert "'safetensors'" in names
    assert error.startswith("unknown format 'npy'; did you mean 'npz'? (known: ")
    assert (imported, same) == ("False False", "True")
