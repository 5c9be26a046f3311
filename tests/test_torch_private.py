"""The private names of torch: one module has them all, and the torch at hand has each of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.export.pt2_archive
from torch import Tensor, nn
from torch.export import exported_program
from torch.fx import Graph, GraphModule
from torch.nn import parameter
from torch.nn.parallel import distributed
from torch.nn.utils import parametrizations, parametrize

import wnconvert
from wnconvert import torch_private

ROOT = Path(wnconvert.__file__).parents[1]
HOME = Path(torch_private.__file__)

_graph = Graph()
_node = _graph.placeholder("x")
_conv = nn.ConvTranspose1d(1, 1, 1)
_parametrized: Any = parametrizations.weight_norm(nn.Linear(2, 2))

#: what has each name that the module uses
OWNERS: dict[str, Any] = {
    **dict.fromkeys(("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"), _conv),
    **dict.fromkeys(("_forward_hooks", "_forward_pre_hooks", "_backward_pre_hooks", "_backward_hooks"), _conv),
    **dict.fromkeys(("_state_dict_hooks", "_state_dict_pre_hooks", "_forward_hooks_always_called"), _conv),
    **dict.fromkeys(("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"), _conv),
    **dict.fromkeys(("_load_from_state_dict", "_save_to_state_dict", "_apply", "_compiled_call_impl"), _conv),
    **dict.fromkeys(("_register_load_state_dict_pre_hook", "_reversed_padding_repeated_twice"), _conv),
    "_output_padding": _conv,
    "_conv_forward": nn.Conv1d,
    "_DropoutNd": nn.modules.dropout,
    "_BatchNorm": nn.modules.batchnorm,
    "_ConvNd": nn.modules.conv,
    **dict.fromkeys(("_flat_weights", "_flat_weight_refs", "_flat_weights_names"), nn.GRU(2, 2)),
    **dict.fromkeys(("_init_flat_weights", "_weights_have_changed"), nn.GRU),
    **dict.fromkeys(("_WeightNorm", "_SpectralNorm"), parametrizations),
    **dict.fromkeys(("_inject_new_class", "_inject_property"), parametrize),
    "_pytree": torch.utils,
    "_python_dispatch": torch.utils,
    **dict.fromkeys(("_weight_norm", "_weight_norm_interface", "_ops", "_C"), torch),
    **dict.fromkeys(("_trilinear", "_embedding_bag", "_embedding_bag_forward_only"), torch.ops.aten),
    **dict.fromkeys(("_unsafe_view", "_assert_tensor_metadata", "_to_copy"), torch.ops.aten),
    **dict.fromkeys(("_native_batch_norm_legit_no_training", "_fused_rms_norm"), torch.ops.aten),
    "_schema": torch.ops.aten.mm.default,
    **dict.fromkeys(("_set_grad_enabled", "_autograd", "_functorch", "_len_torch_function_stack"), torch._C),
    "_are_functorch_transforms_active": torch._C,
    **dict.fromkeys(("_len_torch_dispatch_stack", "_is_tracing"), torch._C),
    "_current_level": torch.autograd.forward_ad,
    "_weight_norm_interface_backward": torch.ops.aten,
    "_top_saved_tensors_default_hooks": torch._C._autograd,
    "_saved_tensors_hooks_is_enabled": torch._C._autograd,
    **dict.fromkeys(("_post_accumulate_grad_hooks", "_grad", "_grad_fn", "_base"), torch.zeros(1)),
    **dict.fromkeys(("_make_wrapper_subclass",), Tensor),
    **dict.fromkeys(("_erased", "_rename"), _node),
    **dict.fromkeys(("_graph_namespace", "_target_to_str"), _graph),
    "_rename_object": _graph._graph_namespace,
    "_graph": GraphModule(nn.Module(), Graph()),
    **dict.fromkeys(("_dynamo", "_utils", "_weights_only_unpickler"), torch),
    "_get_allowed_globals": torch._weights_only_unpickler,
    "_validate_loaded_sparse_tensors": torch._utils,
    **dict.fromkeys(("_rebuild_parameter", "_rebuild_parameter_with_state", "_rebuild_nested_tensor"), torch._utils),
    **dict.fromkeys(("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"), torch._utils),
    **dict.fromkeys(("_rebuild_qtensor", "_rebuild_sparse_tensor", "_rebuild_wrapper_subclass"), torch._utils),
    **dict.fromkeys(("_rebuild_meta_tensor_no_storage", "_rebuild_device_tensor_from_numpy"), torch._utils),
    "_rebuild_device_tensor_from_cpu_tensor": torch._utils,
    "_rebuild_from_type_v2": torch._tensor,
    "_get_layout": torch.serialization,
    "_tensor": torch,
    "_dtype_to_storage_type_map": torch.storage,
    "_untyped_storage": torch.storage.TypedStorage([], dtype=torch.float32, _internal=True),
    "_cdata": torch.UntypedStorage(0),
    "_disabled_torch_function_impl": torch._C,
    "_version": torch.zeros(1),
    "_inductor": torch,
    "_package": torch.export.pt2_archive,
}
#: what only the source of a class shows
IN_SOURCE: dict[str, Any] = {
    "_is_param": parameter,
    "_guards_code": exported_program,
    "_module_parameters": distributed,
    "_comm_hooks": distributed,
    "_delay_all_reduce_params": distributed,
    "_weight_norm_compat_hook": parametrizations,
}


def _private_names(path: Path) -> Iterator[str]:
    """Yield the private names that are attributes, texts or parts of imported modules in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield from _private(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            yield from _private(*node.value.split("."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
            yield from _private(*str(node.module).split("."), *(alias.name for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from _private(
                *(atom for a in node.names if a.name.startswith("torch.") for atom in a.name.split("."))
            )


def _private(*names: str) -> Iterator[str]:
    return (name for name in names if name.startswith("_") and name.isidentifier() and not name.startswith("__"))


def test_each_name_that_the_module_uses_is_listed_here():
    assert set(_private_names(HOME)) == OWNERS.keys() | IN_SOURCE.keys()


@pytest.mark.parametrize("name", OWNERS)
def test_torch_has_the_name(name):
    assert hasattr(OWNERS[name], name)


@pytest.mark.parametrize("name", IN_SOURCE)
def test_the_source_of_torch_has_the_name(name):
    assert name in Path(IN_SOURCE[name].__file__).read_text()


OTHERS = [path for root in ("wnconvert", "cli") for path in sorted((ROOT / root).rglob("*.py")) if path != HOME]


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_other_file_uses_a_private_name_of_torch(path):
    used = set(_private_names(path))
    assert not used & (OWNERS.keys() | IN_SOURCE.keys())
    tree = ast.parse(path.read_text())
    chains = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    of_torch = {chain for chain in chains if chain.startswith(("torch.", "aten.", "F.", "nn.", "Tensor."))}
    assert not [chain for chain in of_torch if any(_private(*chain.split(".")))]
    imported = [node for node in ast.walk(tree) if isinstance(node, (ast.ImportFrom, ast.Import))]
    names = [f"{getattr(node, 'module', '')}.{alias.name}" for node in imported for alias in node.names]
    assert not [name for name in names if name.startswith("torch.") and any(_private(*name.split(".")))]


def test_a_private_name_is_seen(tmp_path):
    file = tmp_path / "file.py"
    file.write_text("import torch._a\nfrom torch.b import _c\nx._d\nself._e\n'_f'\n'has a _g'\n'torch._h.i'\n__j__\n")
    assert set(_private_names(file)) == {"_a", "_c", "_d", "_f", "_h"}
