from __future__ import annotations

import pytest
import torch

from tests.deploying.nets import Net
from wnconvert.deploying.exporting import export
from wnconvert.deploying.targets import aot_inductor
from wnconvert.deploying.targets.aot_inductor import AotInductor
from wnconvert.errors import OptionError
from wnconvert.torch_private import cpp_compiler, load_compiled


@pytest.mark.slow
@pytest.mark.skipif(cpp_compiler() is None, reason="compiles C++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # inductor's own imports
def test_a_compiled_package_gives_the_models_outputs(tmp_path):
    model = Net().eval()
    x = torch.randn(1, 4, 11)
    done = export(model, tmp_path / "net.aoti.pt2", (x,), dynamic_shapes={"x": {2: "T"}})
    assert done.normalizations == (3, 0)
    assert done.compared.sizes == 3
    longer = torch.randn(1, 4, 40)
    with torch.no_grad():
        torch.testing.assert_close(load_compiled(tmp_path / "net.aoti.pt2")(longer)["z"], model(longer)["z"])


def test_without_a_compiler_that_is_said(monkeypatch):
    monkeypatch.setattr(aot_inductor, "cpp_compiler", lambda: None)
    with pytest.raises(OptionError, match=r"needs a C\+\+ compiler"):
        AotInductor().require()
