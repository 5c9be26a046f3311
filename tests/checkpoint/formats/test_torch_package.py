"""Archives of torch.package: what is pickled in them is read, and their code never runs."""

from __future__ import annotations

import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.package import PackageExporter

from tests.checkpoint.pickled import assert_state_dict, without_weight_norm
from wnconvert.checkpoint import fold, load, save
from wnconvert.errors import CheckpointError, UnsafePickleError

#: importing this leaves a trace, once the file it names is there.
CODE = """
import os
import torch
from torch import nn

if os.path.exists({switch!r}):
    os.mkdir({proof!r})

class Codec(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.utils.weight_norm(nn.Conv1d(1, 4, 7)), nn.Tanh())
        self.decoder = nn.utils.weight_norm(nn.ConvTranspose1d(4, 1, 4))
        self.metadata = {{"kwargs": {{"width": 4}}}}

class Thing:
    pass
"""


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    return tmp_path / "proof"


@pytest.fixture
def codec(tmp_path: Path, proof: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module in a file, as torch.package needs it."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "codec.py").write_text(CODE.format(proof=str(proof), switch=str(tmp_path / "switch")))
    monkeypatch.syspath_prepend(folder)
    import codec

    yield codec
    sys.modules.pop("codec", None)


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Path]:
    def write(*resources: tuple[str, str, Any], texts: dict[str, str] | None = None) -> Path:
        path = tmp_path / "package.pth"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)  # the exporter uses it
            with PackageExporter(path) as exporter:
                exporter.intern("codec")
                exporter.extern("**")
                for package, resource, content in resources:
                    exporter.save_pickle(package, resource, content)
                for name, text in (texts or {}).items():
                    exporter.save_text("Codec", name, text)
        sys.modules.pop("codec", None)
        (tmp_path / "switch").touch()
        return path

    return write


def test_what_audiotools_writes_is_read(codec: Any, export: Callable[..., Path], proof: Path, tmp_path: Path) -> None:
    """As `BaseModel._save_package` in https://github.com/descriptinc/audiotools, audiotools/ml/layers/base.py."""
    model = codec.Codec()
    path = export(("Codec", "Codec.pth", model), ("Codec", "Codec.metadata", model.metadata))
    read = load(path)
    assert read.format == "torch_package"
    assert list(read.content) == ["Codec/Codec.pth", "Codec/Codec.metadata"]
    assert_state_dict(read.content["Codec/Codec.pth"], model)
    assert read.content["Codec/Codec.metadata"] == {"kwargs": {"width": 4}}
    assert read.notes == (
        "'Codec/Codec.pth' is a pickled module 'codec.Codec', read as its state dict, without its code",
        "left out of the archive, for it is code or no pickle: 'codec.py'",
    )
    assert not proof.exists()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
        torch.package.PackageImporter(path).load_pickle("Codec", "Codec.pth")
    assert proof.exists(), "the trap must be able to tell"


@pytest.mark.parametrize("options", [{}, {"trust": True}, {"modules": "state_dict"}])
def test_its_code_never_runs(codec: Any, export: Callable[..., Path], proof: Path, options: dict[str, Any]) -> None:
    model = codec.Codec()
    assert_state_dict(load(export(("Codec", "Codec.pth", model)), **options).content, model)
    assert not proof.exists()
    assert "codec" not in sys.modules


def test_one_object_is_the_content(codec: Any, export: Callable[..., Path]) -> None:
    model = codec.Codec()
    read = load(export(("a.b", "x", {"model": model, "step": 3}), texts={"metadata.json": "{}", "b": "words."}))
    assert_state_dict(read.content["model"], model)
    assert read.content["step"] == 3
    assert read.notes[-1].endswith("'Codec/metadata.json', 'Codec/b', 'codec.py'")


def test_it_is_folded_into_another_container(codec: Any, export: Callable[..., Path], tmp_path: Path) -> None:
    model = codec.Codec()
    path = export(("Codec", "Codec.pth", model))
    conversion = fold(replace(load(path), format="torch_zip"))
    save(conversion.checkpoint, tmp_path / "out.pth", source=path)
    written, expected = torch.load(tmp_path / "out.pth", weights_only=True), without_weight_norm(model)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], tensor) for key, tensor in expected.items())


def test_objects_share_storages(codec: Any, export: Callable[..., Path]) -> None:
    model = codec.Codec()
    read = load(export(("a", "model", model), ("b", "bias", {"bias": model.decoder.bias.detach()}))).content
    assert read["a/model"]["decoder.bias"].data_ptr() == read["b/bias"]["bias"].data_ptr()


def test_graph_modules_are_modules(codec: Any, export: Callable[..., Path]) -> None:
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2)))
    assert_state_dict(load(export(("a", "model", model))).content, model)


def test_other_objects_are_refused(codec: Any, export: Callable[..., Path]) -> None:
    read = load(export(("Codec", "Codec.pth", codec.Codec()), ("Codec", "thing", codec.Thing())))
    with pytest.raises(UnsafePickleError, match=r"'Codec/thing' is an object of 'codec\.Thing'"):
        fold(read)


def test_a_package_of_texts_alone_is_refused(export: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match="without anything pickled in it"):
        load(export(texts={"a": "b"}))


def test_a_storage_that_is_missing_is_named(codec: Any, export: Callable[..., Path], tmp_path: Path) -> None:
    path, cut = export(("Codec", "Codec.pth", codec.Codec())), tmp_path / "cut"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(cut, "w") as target:
        for name in source.namelist():
            if not name.endswith("/0.storage"):
                target.writestr(name, source.read(name))
    with pytest.raises(CheckpointError, match=r"\.data/0\.storage' is missing"):
        load(cut)
