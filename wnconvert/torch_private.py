"""Every private name of torch that wnconvert uses, each with the reason and with what would replace it.

No other module uses one. What torch renames or removes is mended here; a test lists the names and sees that torch has
them. Most are looked up when they are used, so that the removal of one breaks only what needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.nn.utils import parametrizations, parametrize
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

__all__ = ["TorchDispatchMode", "is_traceable_wrapper_subclass", "pytree"]

#: Containers taken apart and put together as torch.fx and torch.export do. `torch.utils.pytree` once it is documented.
pytree = _pytree

# ---- what a module holds
#
# Its dicts are read and rebuilt because order matters: `named_parameters` leaves out entries that are None, and
# `register_parameter` only appends. Their names are also keys of `module.__dict__`, for copies, pickles and stand-ins.
# `torch.func.functional_call` and `named_parameters` would replace reads if they kept None; nothing replaces writes.

PARAMETERS, BUFFERS, MODULES = "_parameters", "_buffers", "_modules"
TRANSIENT = "_non_persistent_buffers_set"
REGISTERED = (PARAMETERS, BUFFERS, MODULES)
CONTENTS = (*REGISTERED, TRANSIENT)

#: the dicts of a module's own parameters and buffers, and of the modules that it holds, in which they may be changed
parameters_of: Callable[[nn.Module], dict[str, nn.Parameter | None]] = attrgetter(PARAMETERS)
buffers_of: Callable[[nn.Module], dict[str, Tensor | None]] = attrgetter(BUFFERS)
children_of: Callable[[nn.Module], dict[str, nn.Module | None]] = attrgetter(MODULES)
#: the set of names of buffers that are no keys of the state dict; there is no public way to ask
transient_of: Callable[[nn.Module], set[str]] = attrgetter(TRANSIENT)


# ---- hooks of modules and tensors
#
# torch tells nobody which hooks are registered; a call with hooks is not what its graph would show, and hooks that
# respell state dicts go with the weight that they were for.

CALL_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
#: those that can change a state dict as it is made, and all that concern one
SAVE_HOOKS = ("_state_dict_hooks", "_state_dict_pre_hooks")
STATE_DICT_HOOKS = (*SAVE_HOOKS, "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")
#: methods that a class may override to save, load or move its state in its own way
LOAD = "_load_from_state_dict"
STATE_METHODS = ("_save_to_state_dict", LOAD, "_apply")
#: what `nn.Module.compile` leaves in a module
COMPILED_CALL = "_compiled_call_impl"

_Hooks: TypeAlias = Callable[[nn.Module], dict[int, Any]]
#: what runs, by id: before a forward, after a state dict is made, and before one is loaded (there as torch wraps it)
forward_pre_hooks_of: _Hooks = attrgetter("_forward_pre_hooks")
forward_hooks_of: _Hooks = attrgetter("_forward_hooks")
always_called_of: _Hooks = attrgetter("_forward_hooks_always_called")
state_dict_hooks_of: _Hooks = attrgetter("_state_dict_hooks")
load_hooks_of: _Hooks = attrgetter("_load_state_dict_pre_hooks")


def add_load_hook(module: nn.Module, hook: Any) -> None:
    """Run a hook before a module loads a state dict, without the module as its argument.

    The public method binds the module, and a graph module that holds a hook which holds the module is not pickled.
    """
    module._register_load_state_dict_pre_hook(hook)  # type: ignore[no-untyped-call]


def load_as(base: Any, module: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Load a state dict into a module as the class ``base`` does."""
    base._load_from_state_dict(module, *args, **kwargs)


def gradient_hooks_of(tensor: Tensor) -> list[Any]:
    """Return what runs when the gradient of a tensor is computed."""
    return list((tensor._backward_hooks or {}).values())


def accumulation_hooks_of(tensor: Tensor) -> list[Any]:
    """Return what runs after a gradient was added to that of a tensor."""
    return list((tensor._post_accumulate_grad_hooks or {}).values())


# ---- classes of modules
#
# Base classes without a public name. `nn.modules.dropout` and the like would have to list all classes instead.


def is_dropout(module: Any) -> bool:
    """Return whether a module is a dropout of any number of dims."""
    return isinstance(module, nn.modules.dropout._DropoutNd)


def is_batch_norm(module: Any) -> bool:
    """Return whether a module is a batch norm of any number of dims."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def is_convolution(module: Any) -> bool:
    """Return whether a module is a convolution, transposed or not, of any number of dims."""
    return isinstance(module, nn.modules.conv._ConvNd)


#: methods of convolutions that their forward calls, and that a class may override
CONVOLUTION_METHODS = ("_conv_forward", "_output_padding")
#: what a convolution with another padding than zeros passes to `F.pad`, which its constructor computes
REVERSED_PADDING = "_reversed_padding_repeated_twice"


def convolve(module: Any, input: Any, weight: Any, bias: Any) -> Any:
    """Call a convolution with a weight that is given; it pads as the module's padding mode says."""
    return module._conv_forward(input, weight, bias)


# Recurrent modules hand a list of weights to their kernels; it is composed anew where the weights are.

FLAT_WEIGHTS, FLAT_WEIGHT_REFS = "_flat_weights", "_flat_weight_refs"
INIT_FLAT_WEIGHTS, WEIGHTS_HAVE_CHANGED = "_init_flat_weights", "_weights_have_changed"


def flat_weight_names(module: nn.RNNBase) -> list[str]:
    """Return the names of a recurrent module's weights in the order of its kernel."""
    return module._flat_weights_names


def list_weights_again(module: nn.RNNBase) -> None:
    """Let a recurrent module list its weights for its kernel, after they were changed."""
    module._init_flat_weights()


# ---- torch.nn.utils.parametrize, whose removal of a parametrization breaks copies of the module


def is_weight_norm_step(step: Any) -> bool:
    """Return whether a parametrization is that of `torch.nn.utils.parametrizations.weight_norm`."""
    return isinstance(step, parametrizations._WeightNorm)


def is_spectral_norm_step(step: Any) -> bool:
    """Return whether a parametrization is that of `torch.nn.utils.parametrizations.spectral_norm`."""
    return isinstance(step, parametrizations._SpectralNorm)


#: the hook by which that one loads the keys of the older weight norm
WEIGHT_NORM_LOAD_HOOK = "_weight_norm_compat_hook"


def parametrize_again(module: nn.Module, names: list[str]) -> None:
    """Give a module a class of its own, in which the parametrizations of its other weights are properties."""
    parametrize._inject_new_class(module)
    for name in names:
        parametrize._inject_property(module, name)


# ---- ops

#: what weight norm composes by: the one kernel whose bits torch's own modules give. Nothing public calls it.
weight_norm = torch._weight_norm
#: the same with the norms that it computed, which are not always those of `torch.norm_except_dim`
weight_norm_with_norms = torch._weight_norm_interface

#: its derivative, without a graph of its own
weight_norm_backward = torch.ops.aten._weight_norm_interface_backward.default
#: that of a batch norm whose statistics are given
batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default

#: ops of an exported graph that have no other name
ATEN_TRILINEAR = torch.ops.aten._trilinear.default
ATEN_EMBEDDING_BAG = torch.ops.aten._embedding_bag.default
ATEN_EMBEDDING_BAG_FORWARD_ONLY = torch.ops.aten._embedding_bag_forward_only.default
ATEN_UNSAFE_VIEW = torch.ops.aten._unsafe_view.default
#: how an exported graph asserts dtype and device of what a forward converts
ATEN_ASSERT_METADATA = torch.ops.aten._assert_tensor_metadata.default
ATEN_BATCH_NORM_NO_TRAINING = torch.ops.aten._native_batch_norm_legit_no_training.default
ATEN_FUSED_RMS_NORM = torch.ops.aten._fused_rms_norm.default
ATEN_TO_COPY = torch.ops.aten._to_copy.default
UNSAFE_VIEW = "_unsafe_view"

#: what a node of an exported graph calls; the class has no public name
OpOverload = torch._ops.OpOverload
#: an op with all its overloads, which is what a custom op is called by
OpOverloadPacket = torch._ops.OpOverloadPacket
#: the schema of an ATen overload: what it writes to, and what it returns a view of
schema_of: Callable[[Any], Any] = attrgetter("_schema")


# ---- modes of a thread, which torch only asks about itself

#: how `torch.no_grad` and its like change the mode, as a `TorchFunctionMode` sees it
set_grad_enabled = torch._C._set_grad_enabled
#: what `isinstance(tensor, nn.Parameter)` asks a tensor subclass
IS_PARAMETER = "_is_param"
#: attributes of a tensor that may be None
PERHAPS_NONE = ("_grad", "_grad_fn", "_base", "_backward_hooks")


def has_saved_tensor_hooks() -> bool:
    """Return whether hooks on saved tensors are in force, which is how activation checkpointing works."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def may_hook_saved_tensors() -> bool:
    """Return whether hooks on saved tensors may be set; under transformations of torch.func they may not."""
    return torch._C._autograd._saved_tensors_hooks_is_enabled()  # type: ignore[attr-defined]


def function_modes() -> int:
    """Return how many `TorchFunctionMode` are in force."""
    return torch._C._len_torch_function_stack()


#: whether a transformation of torch.func is running, such as ``grad`` or ``vmap``; a weight that is read asks it
is_transformed = torch._C._are_functorch_transforms_active


def is_followed() -> bool:
    """Return whether somebody follows what is computed: a transformation, a mode, a trace, or forward derivatives."""
    return (
        is_transformed()
        or torch._C._len_torch_function_stack() > 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._is_tracing()
        or torch.autograd.forward_ad._current_level >= 0
    )


def is_wrapped_by_transform(tensor: Tensor) -> bool:
    """Return whether a tensor is one that a transformation of torch.func handed out."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


#: the same of one that stands for several gradients at once, as ``is_grads_batched`` makes it without torch.func
is_batched: Callable[[Tensor], bool] = torch._C._functorch.is_legacy_batchedtensor


#: what a tensor subclass without functions of its own has for ``__torch_function__``; torch documents this name
no_torch_function = torch._C._disabled_torch_function_impl


def tensor_without_memory(cls: Any, shape: Sequence[int], **options: Any) -> Any:
    """Return a tensor of a subclass that has a shape and no memory, as the docs of tensor subclasses make one."""
    return Tensor._make_wrapper_subclass(cls, shape, **options)


#: how often a tensor was changed in place, which autograd counts and nothing public tells
version_of: Callable[[Tensor], int] = attrgetter("_version")
#: which storage it is, also of one without memory
address_of: Callable[[torch.UntypedStorage], int] = attrgetter("_cdata")


# ---- torch.fx

#: whether a node was erased from its graph; ``node in graph.nodes`` takes as long as the graph is large
is_erased: Callable[[Node], bool] = attrgetter("_erased")


def rename(node: Node, name: str) -> None:
    """Give a node a name, with a number behind it if another one has it or had it."""
    node._rename(name)


def take_name(node: Node, name: str) -> None:
    """Give a node a name that an erased one had, which a graph does not give out again."""
    node.name = name
    node.graph._graph_namespace._rename_object(node, name)


def name_of_call(graph: Graph, function: str) -> str:
    """Return the name that torch.fx gives the node that calls a function."""
    return graph._target_to_str(function)


def set_graph(graph_module: GraphModule, graph: Graph) -> None:
    """Give a graph module its graph, without the copy and the new code that the public setter makes."""
    graph_module._graph = graph
    graph.owning_module = graph_module


# ---- torch.export


def carry_guards(program: ExportedProgram, other: ExportedProgram) -> None:
    """Let another program check its inputs as ``program`` does, which one that was loaded knows from its file alone."""
    other._guards_code = list(program._guards_code)


def load_programs(file: Any) -> dict[str, ExportedProgram]:
    """Return the programs in an archive, by name.

    `torch.export.load` logs every error with its traceback, and then tries an older kind of archive.
    """
    from torch.export.pt2_archive import _package

    return _package.load_pt2(file).exported_programs


# ---- DistributedDataParallel, which waits for the gradients of the parameters that it was made with


#: the parameters that a DistributedDataParallel waits for
distributed_parameters: Callable[[Any], Iterable[nn.Parameter]] = attrgetter("_module_parameters")


def set_distributed_parameters(module: Any, parameters: list[nn.Parameter]) -> None:
    """Let a DistributedDataParallel wait for other parameters, once it is restored from its own state."""
    module._module_parameters = parameters


def has_communication_of_its_own(module: Any) -> bool:
    """Return whether a DistributedDataParallel has hooks or delayed parameters, which its state does not show."""
    return bool(getattr(module, "_comm_hooks", ()) or getattr(module, "_delay_all_reduce_params", ()))


#: where the class of modules stands that torch.compile makes
DYNAMO = "torch._dynamo.eval_frame"


# ---- files, which are read and written as torch.load and torch.save do, but not by them


def allowed_globals() -> dict[str, Any]:
    """Return what ``torch.load(weights_only=True)`` looks up, by dotted name; no public list has all of it."""
    return torch._weights_only_unpickler._get_allowed_globals()


def validate_sparse_tensors() -> None:
    """Check the sparse tensors that were rebuilt since the last check, as `torch.load` does at its end."""
    torch._utils._validate_loaded_sparse_tensors()  # type: ignore[no-untyped-call]


def rebuild_parameter() -> Callable[..., Any]:
    """Return what the pickle of a parameter calls."""
    return torch._utils._rebuild_parameter


def rebuild_tensor() -> Callable[..., Any]:
    """Return what the pickle of a tensor calls."""
    return torch._utils._rebuild_tensor_v2


def rebuilt_tensor(
    storage: torch.storage.TypedStorage,
    offset: int,
    size: Sequence[int],
    stride: Sequence[int],
    requires_grad: bool,
    hooks: Any,
    metadata: dict[str, bool] | None = None,
) -> Tensor:
    """Return what `rebuild_tensor` returns, without its search for a fake mode, which takes longer than all the rest.

    Hooks are none, as in every file that torch has written since 0.4.
    """
    made: Tensor = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage, offset, size, stride)
    if requires_grad:
        made.requires_grad = True
    if metadata:
        torch._utils.set_tensor_metadata(made, metadata)  # type: ignore[no-untyped-call]
    return made


#: what that is called in the pickle
REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
#: the functions that pickles of tensors call, and which argument of each is the hooks
REBUILDERS: dict[str, int | None] = {
    "torch._utils._rebuild_tensor": None,
    REBUILD_TENSOR: 5,
    "torch._utils._rebuild_tensor_v3": 5,
    "torch._utils._rebuild_qtensor": 6,
    "torch._utils._rebuild_sparse_tensor": None,
    "torch._utils._rebuild_meta_tensor_no_storage": None,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": None,
    "torch._utils._rebuild_device_tensor_from_numpy": None,
    "torch._utils._rebuild_parameter": 2,
}
#: those that set attributes, or call functions, as they are told to
PARAMETER_WITH_STATE, SUBCLASS = "torch._utils._rebuild_parameter_with_state", "torch._tensor._rebuild_from_type_v2"
#: those of tensors without memory of their own, or of a kind that no state dict has
UNUSUAL = ("torch._utils._rebuild_nested_tensor", "torch._utils._rebuild_wrapper_subclass")
#: what a pickle calls for the layout of a sparse tensor
GET_LAYOUT = "torch.serialization._get_layout"


#: the memory of a typed storage, without the warning that `TypedStorage.untyped` gives
untyped_storage_of: Callable[[torch.storage.TypedStorage], torch.UntypedStorage] = attrgetter("_untyped_storage")
#: what two Python objects of one storage have in common, also where its memory is empty
identity_of: Callable[[torch.UntypedStorage], int] = attrgetter("_cdata")


def storage_types() -> dict[torch.dtype, str]:
    """Return the names of the typed storages, by which a pickle tells the dtype of a tensor."""
    return torch.storage._dtype_to_storage_type_map()


# ---- AOTInductor, whose functions are documented under these private names


def write_compiled(program: ExportedProgram, path: Path) -> None:
    """Compile a program into a package."""
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))


def load_compiled(path: Path) -> Callable[..., Any]:
    """Return what a package computes."""
    return torch._inductor.aoti_load_package(str(path))


def cpp_compiler() -> str | None:
    """Return the compiler that inductor takes, or None where there is none; nothing public says that."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return get_cpp_compiler()
    except InvalidCxxCompiler:
        return None
