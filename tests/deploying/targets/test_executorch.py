from __future__ import annotations

import pytest
import torch

from tests.deploying.nets import Net
from wnconvert.deploying.exporting import export

pytest.importorskip("executorch")
pytestmark = pytest.mark.filterwarnings("ignore")  # executorch's imports give many


def test_every_layer_is_delegated_and_the_outputs_are_the_models(tmp_path):
    x = torch.randn(1, 4, 11)
    done = export(Net().eval(), tmp_path / "net.pte", (x,), dynamic_shapes={"x": {2: "T"}})
    assert done.normalizations == (3, 0)
    assert done.compared.sizes == 3
    assert done.counts["layers not delegated"] == 0
    assert done.counts["delegates"] > 0
