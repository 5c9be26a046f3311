"""Signatures and results: None, keywords, nested inputs and outputs."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.fuzz.constructs.registry import BATCH, ORDINARY, WIDTH, Call, WithLinear, call_with_x, construct

NONE = "argument tested for None"
FLAG = "argument decides"
RESULT = "nested result"


def with_mask(x: Tensor) -> Call:
    return (x, torch.linspace(0, 1, WIDTH)), {}


def with_keyword_mask(x: Tensor) -> Call:
    return (x,), {"mask": torch.linspace(0, 1, WIDTH)}


def with_none(x: Tensor) -> Call:
    return (x, None), {}


@construct(NONE, calls=(call_with_x, with_mask, with_keyword_mask, with_none))
class OptionalMask(WithLinear):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.fc(x)
        if mask is not None:
            h = h * mask
        return h


@construct(NONE, calls=(with_none, with_mask), plain=False)
class RequiredMask(WithLinear):
    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        h = self.fc(x)
        return h if mask is None else h * mask


@construct(NONE)
class CallsWithAndWithout(nn.Module):
    """One child, called with the argument and without."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = OptionalMask()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.inner(x, x.sigmoid())


@construct(NONE)
class NoneHandedDown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = RequiredMask(), RequiredMask()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x, None), torch.ones(WIDTH))


@construct(NONE, calls=(call_with_x, with_mask))
class NoneIsMadeATensor(WithLinear):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            mask = torch.ones(BATCH, WIDTH)
        return self.fc(x) * mask


def as_list(x: Tensor) -> Call:
    return ([x, x * 2],), {}


@construct(ORDINARY, calls=(as_list,), plain=False)
class ListInput(WithLinear):
    def forward(self, xs: list[Tensor]) -> Tensor:
        return self.fc(xs[0]) + self.fc(xs[1])


@construct(FLAG, calls=(as_list,), plain=False)
class ListIterated(WithLinear):
    def forward(self, xs: list[Tensor]) -> Tensor:
        return sum(self.fc(x) for x in xs)  # type: ignore[return-value]


def as_dict(x: Tensor) -> Call:
    return ({"x": x, "scale": 2.0},), {}


def as_dict_without_scale(x: Tensor) -> Call:
    return ({"x": x},), {}


@construct(FLAG, calls=(as_dict, as_dict_without_scale), plain=False)
class DictInput(WithLinear):
    def forward(self, batch: dict[str, Any]) -> Tensor:
        h = self.fc(batch["x"])
        return h * batch["scale"] if "scale" in batch else h


def with_flag(x: Tensor) -> Call:
    return (x,), {"flag": True}


@construct(FLAG, calls=(call_with_x, with_flag))
class FlagArgument(WithLinear):
    def forward(self, x: Tensor, flag: bool = False) -> Tensor:
        h = self.fc(x)
        return h.relu() if flag else h


def with_text(x: Tensor) -> Call:
    return (x,), {"how": "double"}


@construct(FLAG, calls=(call_with_x, with_text))
class TextArgument(WithLinear):
    def forward(self, x: Tensor, how: str = "plain") -> Tensor:
        h = self.fc(x)
        return h * 2 if how == "double" else h


def with_number(x: Tensor) -> Call:
    return (x, 3), {}


@construct(FLAG, calls=(call_with_x, with_number))
class NumberArgument(WithLinear):
    def forward(self, x: Tensor, repeats: int = 1) -> Tensor:
        for _ in range(repeats):
            x = self.fc(x).tanh()
        return x


def with_scale(x: Tensor) -> Call:
    return (x,), {"scale": 0.5}


@construct(ORDINARY, calls=(call_with_x, with_scale))
class KeywordOnly(WithLinear):
    def forward(self, x: Tensor, *, scale: float = 2.0) -> Tensor:
        return self.fc(x) * scale


def with_more(x: Tensor) -> Call:
    return (x, x * 2, x * 3), {}


@construct(FLAG, calls=(call_with_x, with_more))
class StarArgs(WithLinear):
    def forward(self, *xs: Tensor) -> Tensor:
        return sum(self.fc(x) for x in xs)  # type: ignore[return-value]


@construct(FLAG, calls=(call_with_x, with_scale))
class StarKwargs(WithLinear):
    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.fc(x) * kwargs.get("scale", 1.0)


@construct(FLAG)
class PassesKwargs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = KeywordOnly()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x=x, scale=0.25)


@construct(RESULT, plain=False)
class TupleOutput(WithLinear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, None]:
        h = self.fc(x)
        return h, h.sum(0), None


@construct(RESULT, plain=False)
class DictOutput(WithLinear):
    def forward(self, x: Tensor) -> dict[str, Any]:
        h = self.fc(x)
        return {"logits": h, "aux": [h.mean(), {"loss": h.pow(2).sum()}], "width": WIDTH}


@construct(RESULT, plain=False)
class OrderedOutput(WithLinear):
    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        h = self.fc(x)
        return OrderedDict(second=h * 2, first=h)


class Pair(NamedTuple):
    """A result with names."""

    logits: Tensor
    hidden: Tensor


@construct(RESULT, plain=False)
class NamedTupleOutput(WithLinear):
    def forward(self, x: Tensor) -> Pair:
        h = self.fc(x)
        return Pair(h, x * 2)


@dataclass
class Outcome:
    """A result of a class of its own."""

    logits: Tensor
    steps: int = 1


@construct(RESULT, plain=False)
class DataclassOutput(WithLinear):
    def forward(self, x: Tensor) -> Outcome:
        return Outcome(self.fc(x))


@construct(RESULT, plain=False)
class ListOutput(WithLinear):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.fc(row) for row in x.unbind(0)]


@construct(RESULT)
class TupleFromChild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = TupleOutput()

    def forward(self, x: Tensor) -> Tensor:
        h, total, _ = self.inner(x)
        return h + total


@construct(RESULT)
class DictFromChild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = DictOutput()

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(x)
        return out["logits"] + out["aux"][0] if "aux" in out else out["logits"]


@construct(RESULT, plain=False)
class NumberOutput(WithLinear):
    def forward(self, x: Tensor) -> tuple[Tensor, float, int]:
        h = self.fc(x)
        return h, 0.5, x.shape[0]


@construct(RESULT, plain=False)
class ItemOutput(WithLinear):
    def forward(self, x: Tensor) -> tuple[Tensor, float]:
        h = self.fc(x)
        return h, h.sum().item()


@construct("other methods")
class OtherMethods(WithLinear):
    """What is called is not forward alone."""

    def encode(self, x: Tensor) -> Tensor:
        return self.fc(x).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x) + self.encode(x * 2)


@construct("other methods")
class ChildsMethodCalled(nn.Module):
    """A method of a child that is not its forward, past the child's call."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = OtherMethods()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.encode(x) - self.inner(x)


@construct("other methods")
class ForwardCalledDirectly(WithLinear):
    """Past the hooks and the call of the child."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc.forward(x)
