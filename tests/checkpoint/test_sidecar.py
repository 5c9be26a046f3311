from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.checkpoint.conftest import DTYPES, leftovers, state_dict
from tests.covering import pairwise
from tests.helpers import label
from wnconvert.checkpoint import FORMATS, Checkpoint, apply, difference, fold, load, save, sidecar
from wnconvert.errors import CheckpointError, OutputError
from wnconvert.scheme import SCHEMES
from wnconvert.schemes.weight_norm import WeightNorm

BARE = [name for name in FORMATS if sidecar.is_used_by(FORMATS.get(name))]


def put(path: Path, name: str, content: object, metadata: dict[str, str], *, force: bool = False) -> None:
    save(Checkpoint(content, name, metadata), path, source=path.with_name("source"), force=force)


def test_containers_without_metadata_have_records_beside_them() -> None:
    assert BARE == ["npz", "torch_legacy"]


@pytest.mark.parametrize(
    ("scheme", "dtype", "name"),
    pairwise(
        SCHEMES,
        DTYPES,
        BARE,
        allowed=lambda scheme, dtype, name: (name, dtype) != ("npz", torch.bfloat16),  # NumPy has none
    ),
    ids=label,
)
def test_every_scheme_is_folded_as_from_a_container_with_metadata(
    tmp_path: Path, name: str, scheme: str, dtype: torch.dtype
) -> None:
    applied = apply(
        Checkpoint({key: t.clone() for key, t in state_dict(dtype).items()}, name), scheme, dim=0
    ).checkpoint
    save(applied, tmp_path / "x", source=tmp_path / "source")
    assert leftovers(tmp_path, "x", "x.wnconvert.json") == set()
    found = load(tmp_path / "x")
    assert (found.metadata, found.notes) == (applied.metadata, ())
    back = fold(found)
    assert back.report.notes == ()
    assert difference(fold(applied).checkpoint.content, back.checkpoint.content) is None
    if SCHEMES.get(scheme)().preserving:
        assert difference(dict(state_dict(dtype)), back.checkpoint.content, ordered=False) is None


@pytest.mark.parametrize("name", BARE)
def test_nothing_to_record_is_no_record(tmp_path: Path, name: str) -> None:
    put(tmp_path / "x", name, {"a": torch.ones(2)}, {})
    assert leftovers(tmp_path, "x") == set()


def test_a_record_is_found_through_a_link_too(tmp_path: Path) -> None:
    put(tmp_path / "x", "npz", {"a": torch.ones(2)}, {"wnconvert": "mine"})
    (tmp_path / "link").symlink_to("x")
    assert load(tmp_path / "link").metadata == {"wnconvert": "mine"}


@pytest.mark.parametrize("large", [False, True])
def test_a_stale_record_is_not_applied(tmp_path: Path, large: bool) -> None:
    path = tmp_path / "x.npz"
    shape = (1000, 1000) if large else (4, 3)
    source = Checkpoint({"a.weight": torch.randn(shape)}, "npz")
    save(apply(source, WeightNorm(p=1.0)).checkpoint, path, source=tmp_path / "none")
    assert difference(source.content, fold(load(path)).checkpoint.content) is None
    parts = dict(np.load(path))
    np.savez(path, **{**parts, "a.weight_g": parts["a.weight_g"] * 2})  # the same keys, shapes and dtypes
    found = load(path)
    note = (
        f"the record '{path}.wnconvert.json' is of another file, or of this one before it was changed; it is not used"
    )
    assert (found.metadata, found.notes) == ({}, (note,))
    for conversion in (fold(found), apply(Checkpoint(source.content, "npz", notes=(note,)))):
        assert note in conversion.report.notes


def test_a_large_file_is_told_by_a_sample(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(os.urandom(5_000_000))
    record = sidecar.Record.of(path, {})
    assert record.fits(path)
    data = bytearray(path.read_bytes())
    for start, length in [(0, 1), (5_000_000 - 1, 1), (1_000_000, 100_000)]:
        changed = data.copy()
        changed[start : start + length] = bytes(255 - byte for byte in data[start : start + length])
        path.write_bytes(changed)
        assert not record.fits(path)


class KilledError(BaseException):
    """What a kill is to the code: nothing after it runs."""


@pytest.mark.parametrize("new", [{"wnconvert": "new"}, {}], ids=["recorded", "unrecorded"])
@pytest.mark.parametrize("old", [{"wnconvert": "old"}, {}, None], ids=["recorded", "unrecorded", "absent"])
def test_killed_between_renames_each_file_has_its_own_record(
    tmp_path: Path, old: dict[str, str] | None, new: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    contents = [{"a": torch.zeros(3)}, {"a": torch.ones(3)}]
    replace, unlink, left = Path.replace, Path.unlink, [0]

    def counted(do):  # type: ignore[no-untyped-def]
        def call(self: Path, *arguments: object, **options: object) -> object:
            if path.name in (self.name, *(Path(str(each)).name for each in arguments)) or self == sidecar.place(path):
                left[0] -= 1
                if left[0] < 0:
                    raise KilledError
            return do(self, *arguments, **options)

        return call

    reached = set()
    for steps in range(6):
        if old is not None:
            put(path, "torch_legacy", contents[0], old, force=True)
        with monkeypatch.context() as patched:
            left[0] = steps
            patched.setattr(Path, "replace", counted(replace))
            patched.setattr(Path, "unlink", counted(unlink))
            try:
                put(path, "torch_legacy", contents[1], new, force=True)
                done = True
            except KilledError:
                done = False
        if old is None and not path.exists():
            assert not done
        else:
            found = load(path)
            which = int(found.content["a"].sum()) // 3
            reached.add(which)
            assert found.metadata == (new if which else old)
            assert found.notes == ()
            assert which or not done
        for each in tmp_path.iterdir():
            each.unlink()
    assert reached == ({0, 1} if old is not None else {1})


@pytest.mark.parametrize("old", [True, False])
def test_where_the_file_gets_no_name_its_record_gets_none(
    tmp_path: Path, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = tmp_path / "x", {"wnconvert": "old"}
    if old:
        put(path, "npz", {"a": torch.ones(2)}, before)
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if target == path:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        put(path, "npz", {"a": torch.zeros(2)}, {"wnconvert": "new"}, force=True)
    assert leftovers(tmp_path) == ({"x", "x.wnconvert.json"} if old else set())
    if old:
        assert load(path).metadata == before
        assert len(json.loads((tmp_path / "x.wnconvert.json").read_text())["records"]) == 1


def test_a_record_without_its_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x"
    put(path, "npz", {"a": torch.ones(2)}, {"wnconvert": "old"})
    path.unlink()
    put(path, "npz", {"a": torch.zeros(2)}, {"wnconvert": "new"})
    assert load(path).metadata == {"wnconvert": "new"}
    path.unlink()
    put(path, "npz", {"a": torch.zeros(2)}, {})
    assert leftovers(tmp_path, "x") == set()


@pytest.mark.parametrize("name", ["npz", "safetensors"])
def test_a_replaced_file_takes_its_record_with_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x"
    put(path, "torch_legacy", {"a": torch.ones(2)}, {"wnconvert": "old"})
    put(path, name, {"a": torch.zeros(2)}, {}, force=True)
    assert leftovers(tmp_path, "x") == set()
    assert load(path).metadata == {}


def test_what_is_no_record_is_replaced_only_by_force(tmp_path: Path) -> None:
    path, other = tmp_path / "x", tmp_path / "x.wnconvert.json"
    other.write_text("precious")
    with pytest.raises(OutputError, match=r"x\.wnconvert\.json', where the record goes, exists; give --force"):
        put(path, "npz", {"a": torch.ones(2)}, {"wnconvert": "new"})
    assert other.read_text() == "precious"
    put(path, "safetensors", {"a": torch.ones(2)}, {"wnconvert": "new"}, force=True)
    assert other.read_text() == "precious", "a container with metadata does not need the place"
    put(path, "npz", {"a": torch.ones(2)}, {"wnconvert": "new"}, force=True)
    assert load(path).metadata == {"wnconvert": "new"}
    other.unlink()
    other.mkdir()
    with pytest.raises(OutputError, match="is a directory"):
        put(path, "npz", {"a": torch.ones(2)}, {"wnconvert": "new"}, force=True)


def test_the_input_and_its_record_are_never_written_over(tmp_path: Path) -> None:
    source = tmp_path / "x"
    put(source, "npz", {"a": torch.ones(2)}, {"wnconvert": "old"})
    content = load(source)
    with pytest.raises(OutputError, match="is the record of the input"):
        save(content, tmp_path / "x.wnconvert.json", source=source, force=True)
    odd = tmp_path / "y.wnconvert.json"
    source.rename(odd)
    with pytest.raises(OutputError, match="would have its record in the input"):
        save(content, tmp_path / "y", source=odd, force=True)


def hostile(path: Path, kind: str) -> None:
    """Put something at the place of a record."""
    whole = path.read_text()
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link out":
        (path.parent.parent / "outside").write_text(whole)
        path.symlink_to("../outside")
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    else:
        texts = {
            "cut short": whole[:50],
            "empty": "",
            "bytes": "\x00\xff",
            "number": "7",
            "list": "[]",
            "nested": "[" * 100_000,
            "version": whole.replace('"version": 1,\n', '"version": 2,\n'),
            "no records": '{"version": 1}',
            "numbers": json.dumps({"version": 1, "records": [{"size": 1, "sha256": 2, "metadata": {}}]}),
            "metadata": json.dumps({"version": 1, "records": [{"size": 1, "sha256": "", "metadata": {"a": 1}}]}),
        }
        path.write_text(texts[kind], encoding="latin-1")


HOSTILE = ["directory", "link out", "dangling link", "loop", "huge", "cut short", "empty", "bytes", "number"]
HOSTILE += ["pipe"] if hasattr(os, "mkfifo") else []
HOSTILE += ["list", "nested", "version", "no records", "numbers", "metadata"]


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_record_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    put(folder / "x", "npz", {"a": torch.ones(2)}, {"wnconvert": "mine"})
    hostile(folder / "x.wnconvert.json", kind)
    with pytest.raises(CheckpointError, match=r"x\.wnconvert\.json") as caught:
        load(folder / "x")
    assert "\n" not in str(caught.value)
    assert "link that leads out" in str(caught.value) or "delete it to go without it" in str(caught.value)
