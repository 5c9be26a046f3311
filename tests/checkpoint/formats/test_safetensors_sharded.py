from __future__ import annotations

from pathlib import Path

from tests.checkpoint.formats.samples import model_folder
from tests.cli.conftest import report, run
from wnconvert.checkpoint import load


def test_an_index_alone_gives_shards_alone(folder: Path) -> None:
    model_folder(folder / "net", shards=2)
    index = Path("net", "model.safetensors.index.json")
    assert report(run("fold", index, "--json"))["output"] == "net/model.folded"
    assert load("net/model.folded").format == "safetensors_sharded"
    assert not Path("net/model.folded/config.json").exists()
