"""A graph module that keeps all that it holds when it is copied or pickled."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from wnconvert.torch_private import CONTENTS

#: what every module is made of: its mode, tensors, modules and hooks
_ATTRIBUTES = tuple(vars(nn.Module()))


def _kept(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return what is to be put into a module that torch made anew: also tensors that are no buffers, which it makes."""
    return {name: value for name, value in attributes.items() if name in _ATTRIBUTES or isinstance(value, Tensor)}


class WholeGraphModule(GraphModule):
    """A `torch.fx.GraphModule` that is still all of the model after it was copied or pickled.

    torch's own is made anew from its graph then: of a module or parameter that the root holds under two names, only the
    first one is left, buffers that are no keys of the state dict become keys, and hooks of the root go.

    In a pickle there are only torch's own functions and plain containers, so wnconvert is not needed to load it; what
    is loaded is torch's `GraphModule`, with all of its contents.
    """

    def __init__(self, root: nn.Module, graph: Graph, class_name: str = "GraphModule") -> None:
        super().__init__(root, graph, class_name)
        # all of the model's contents, in their order, and not only what the graph names
        self.__dict__.update({name: type(value)(value) for name in CONTENTS for value in (getattr(root, name),)})

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to build torch's graph module, and the state that it then gets."""
        function, (attributes, *rest) = super().__reduce__()
        needed = {name: value for name, value in attributes.items() if name in CONTENTS or name not in _ATTRIBUTES}
        # the hooks come with the state alone: one may refer to this module, which must exist by then
        return function, (needed, *rest), _kept(attributes)

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphModule:
        """Return a copy that holds the copies of all that this one holds."""
        copied: GraphModule = super().__deepcopy__(memo)
        attributes = memo[id(self.__dict__)]
        copied.__dict__.update(_kept(attributes))
        return copied

    def __copy__(self) -> GraphModule:
        """Return a graph module that shares all that this one holds."""
        copied = WholeGraphModule(self, self.graph, type(self).__name__)
        copied.meta = self.meta
        return copied
