"""Modules that wrap a model and hold on to its parameters: to train it on several devices, or to compile it.

What they are is looked up among the modules that are already imported, since a model that is wrapped by one of them
was wrapped by its code.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from wnconvert.fitness import is_distributed
from wnconvert.reasons import Reason, Why
from wnconvert.torch_private import (
    DYNAMO,
    distributed_parameters,
    has_communication_of_its_own,
    set_distributed_parameters,
)

_DISTRIBUTED = {"torch.nn.parallel.distributed": ("DistributedDataParallel",)}
_SHARDING = {"torch.distributed.fsdp": ("FullyShardedDataParallel", "FSDPModule")}
_WRAPPERS = {
    **_DISTRIBUTED,
    **_SHARDING,
    "torch.nn.parallel.data_parallel": ("DataParallel",),
    DYNAMO: ("OptimizedModule",),
}
#: what made a module of a class that has another name
_MADE_BY = {"FSDPModule": "fully_shard", "OptimizedModule": "torch.compile"}


def reason_against_apply(model: nn.Module) -> Reason | None:
    """Return why no weight of ``model`` can be replaced by its parts, and the way out, or None.

    Args:
        model: a model that a wrapper may be, or contain.
    """
    wrappers = _imported(_WRAPPERS)
    for path, module in model.named_modules():
        if isinstance(module, wrappers):
            name = next(each.__name__ for each in wrappers if isinstance(module, each))
            where = f"its module {path!r}" if path else "it"
            return Why.WRAPPED(where=where, wrapper=_MADE_BY.get(name, name))
    return None


def reason_against_fold(model: nn.Module, inplace: bool) -> Reason | None:
    """Return why nothing of ``model`` can be folded, and the way out, or None.

    Args:
        model: a model that a wrapper may be, or contain.
        inplace: whether it is changed itself. If not it has to be copied, which what shards a part of it forbids.
    """
    sharding = _imported(_SHARDING)
    concerned = isinstance(model, sharding) if inplace else any(isinstance(each, sharding) for each in model.modules())
    return Why.SHARDED() if concerned else None


def reason_against_fuse(model: nn.Module) -> Reason | None:
    """Return why nothing of ``model`` can be fused, and the way out, or None.

    A normalization and the layers that take it in have to be whole.
    """
    if any(isinstance(each, _imported(_SHARDING)) for each in model.modules()):
        return Why.SHARDED()
    return Why.SHARDED() if any(map(is_distributed, model.parameters())) else None


def reasons_against_fold(model: nn.Module) -> dict[int, Reason]:
    """Return why nothing that a module holds can be folded, by the id of the module, for all that cannot be.

    Of the wrappers, those stand against it that keep parameters in pieces, and those that cannot be made ready for
    other parameters, see `make_ready`.

    Args:
        model: a model that wrappers may be in, or that is one.
    """
    reasons: dict[int, Reason] = {}
    sharding, distributed = _imported(_SHARDING), _imported(_DISTRIBUTED)
    for module in model.modules():
        reason = None
        if isinstance(module, sharding):
            reason = Why.SHARDED()
        elif isinstance(module, distributed) and _is_set_up_by_hand(module):
            reason = Why.WRAPPED()
        if reason is not None:
            reasons.update(dict.fromkeys(map(id, module.modules()), reason))
    return reasons


def make_ready(model: nn.Module) -> None:
    """Let what wraps a model, or a part of it, know the parameters that it has after a fold.

    `DistributedDataParallel` waits for the gradients of those that it was made with. It is given the others as when it
    is unpickled. Code of `torch.compile` needs nothing: its guards see that modules have changed.
    """
    distributed = _imported(_DISTRIBUTED)
    for module in model.modules():
        if not isinstance(module, distributed) or _is_set_up_by_hand(module):
            continue
        known = {id(parameter) for parameter in distributed_parameters(module)}
        now = [p for name, p in module.module.named_parameters() if name not in module.parameters_to_ignore]
        if known != set(map(id, now)):
            set_distributed_parameters(module, now)
            module.__setstate__(module.__getstate__())


def _is_set_up_by_hand(module: Any) -> bool:
    """Whether torch could not restore a DistributedDataParallel from its own pickle as it is."""
    return bool(
        module.process_group is not sys.modules["torch.distributed"].group.WORLD
        or has_communication_of_its_own(module)
        or getattr(module, "mixed_precision", None) is not None
    )


def _imported(places: Mapping[str, tuple[str, ...]]) -> tuple[Any, ...]:
    """Return those of the named classes that were imported."""
    found = (getattr(sys.modules.get(place), name, None) for place, names in places.items() for name in names)
    return tuple(cls for cls in found if cls is not None)
