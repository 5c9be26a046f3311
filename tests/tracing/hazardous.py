"""Small modules, each of which does something that a graph would lose; with the calls that show it."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.tracing.cases import CASES, Base, Case, X, case
from wnconvert.tracing.hazards import Hazard

# decisions on values: nothing can stand for a value, so that each is an error even where nobody looks for it


@case(Hazard.VALUE, "a condition", wrong=False)
def _(self, x):
    return self.fc(x) if x.sum() > 0 else x


@case(Hazard.VALUE, "a length", wrong=False)
def _(self, x):
    return self.fc(x) * len(x)


@case(Hazard.VALUE, "a loop", wrong=False)
def _(self, x):
    return torch.stack([self.fc(row) for row in x])


@case(Hazard.VALUE, "a number", wrong=False)
def _(self, x):
    return self.fc(x) * float(x.sum())


@case(Hazard.VALUE, "a membership", wrong=False)
def _(self, x):
    return self.fc(x) if 5.0 in x else x


@case(Hazard.VALUE, "a flag", calls=((X,), (X, True), (X, False)), nested=False, wrong=False)
def _(self, x, relu=False):
    return F.relu(self.fc(x)) if relu else self.fc(x)


# types


@case(Hazard.TYPE, "isinstance")
def _(self, x):
    return self.fc(x) if isinstance(x, Tensor) else x


@case(Hazard.TYPE, "is_tensor")
def _(self, x):
    return self.fc(x) if torch.is_tensor(x) else x


@case(Hazard.TYPE, "type")
def _(self, x):
    return self.fc(x) if type(x) is Tensor else x


# `None` has no such attribute either, which trying all calls shows
@case(Hazard.TYPE, "an optional attribute", also=(Hazard.NONE,))
def _(self, x):
    return -self.fc(x) if hasattr(x, "append") else self.fc(x)


# modes that the caller does not have


@case(Hazard.CONTEXT, "no_grad")
def _(self, x):
    with torch.no_grad():
        return self.fc(x)


@case(Hazard.CONTEXT, "no_grad by a decorator")
@torch.no_grad()
def _(self, x):
    return self.fc(x)


@case(Hazard.CONTEXT, "enable_grad")
def _(self, x):
    with torch.enable_grad():
        return self.fc(x)


@case(Hazard.CONTEXT, "inference_mode")
def _(self, x):
    with torch.inference_mode():
        y = self.fc(x)
    return x + y.clone()


@case(Hazard.CONTEXT, "autocast")
def _(self, x):
    with torch.autocast("cpu"):
        y = self.fc(x)
    return y.float()


@case(Hazard.CONTEXT, "no autocast")
def _(self, x):
    with torch.autocast("cpu", enabled=False):
        return self.fc(x)


@case(Hazard.CONTEXT, "saved tensors")
def _(self, x):
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t * 0, lambda t: t):
        return self.fc(x).exp()


# what depends on a mode


@case(Hazard.MODE, "training")
def _(self, x):
    return self.fc(x) if self.training else x


@case(Hazard.MODE, "the mode of a child")
def _(self, x):
    return self.fc(x) if self.fc.training else x


@case(Hazard.MODE, "is_grad_enabled")
def _(self, x):
    return self.fc(x) if torch.is_grad_enabled() else x


@case(Hazard.MODE, "is_autocast_enabled")
def _(self, x):
    return self.fc(x) if torch.is_autocast_enabled("cpu") else x


# random numbers


@case(Hazard.RANDOM, "randn")
def _(self, x):
    return self.fc(x) + torch.randn(4)


@case(Hazard.RANDOM, "a drawn number")
def _(self, x):
    return self.fc(x) * torch.rand(()).item()


@case(Hazard.RANDOM, "filled with noise")
def _(self, x):
    return self.fc(x) + torch.empty(4).normal_()


@case(Hazard.RANDOM, "Python's random")
def _(self, x):
    return self.fc(x) * random.random()


@case(Hazard.RANDOM, "NumPy's random")
def _(self, x):
    return self.fc(x) * float(np.random.rand())


@case(Hazard.RANDOM, "a seed")
def _(self, x):
    torch.manual_seed(3)
    return self.fc(x)


# constants


@case(Hazard.CONSTANT, "a constant that takes gradients")
def _(self, x):
    return self.fc(x) * torch.ones(4, requires_grad=True).exp()


@case(Hazard.CONSTANT, "a constant that is returned", nested=False)
def _(self, x):
    return self.fc(x), torch.zeros(4)


# writing


@case(Hazard.WRITE, "a sum")
def _(self, x):
    total = torch.zeros(3, 4)
    total += self.fc(x)
    return x + total


@case(Hazard.WRITE, "items")
def _(self, x):
    out = torch.zeros(3, 4)
    out[1] = self.fc(x)[0]
    return x + out


# a proxy has nothing to keep it in, so that this is an error whoever looks
@case(Hazard.WRITE, "an attribute of a tensor", wrong=False)
def _(self, x):
    self.fc.weight.data = self.fc.weight.data * 0.5
    return self.fc(x)


# state


def _count(self):
    self.calls = 0


@case(Hazard.STATE, "a counter", _count, also=(Hazard.MODE, Hazard.NONE))
def _(self, x):
    self.calls += 1
    return self.fc(x) * self.calls


def _list(self):
    self.calls = []


@case(Hazard.STATE, "a list", _list, also=(Hazard.MODE, Hazard.NONE))
def _(self, x):
    self.calls.append(1)
    return self.fc(x) * len(self.calls)


@case(Hazard.STATE, "another buffer", also=(Hazard.MODE, Hazard.NONE))
def _(self, x):
    self.mean = self.mean * 0.5 + self.fc(x).mean(0).detach()
    return x + self.mean


@case(Hazard.STATE, "a buffer that is made")
def _(self, x):
    if not hasattr(self, "table"):
        self.register_buffer("table", torch.ones(4))
    return self.fc(x) + self.table


# no graph can hold it, whoever looks
@case(Hazard.STATE, "a parameter that is made", wrong=False)
def _(self, x):
    return self.fc(x) * nn.Parameter(torch.ones(4))


# hooks


def _hook(self):
    self.register_forward_hook(lambda module, args, output: output * 2)


@case(Hazard.HOOK, "a hook", _hook)
def _(self, x):
    return self.fc(x)


def _pre_hook(self):
    self.register_forward_pre_hook(lambda module, args: (args[0] * 2,))


@case(Hazard.HOOK, "a pre-hook", _pre_hook)
def _(self, x):
    return self.fc(x)


def _backward_hook(self):
    self.register_full_backward_pre_hook(lambda module, grads: (grads[0] * 2,))


@case(Hazard.HOOK, "a backward hook", _backward_hook)
def _(self, x):
    return self.fc(x)


# calls


def _own_forward(self):
    kind = type(self)
    self.forward = lambda x: kind.forward(self, x) * 2


# without the observation that forward is run all the same, so that what it calls is in the graph
@case(Hazard.CALL, "an instance's forward", _own_forward, wrong=False)
def _(self, x):
    return self.fc(x)


class OwnCall(Base):
    """It has a ``__call__`` of its own."""

    def __call__(self, x):
        return super().__call__(x) + 1

    def forward(self, x):
        return self.fc(x)


CASES["an overridden call"] = Case(Hazard.CALL, OwnCall, nested=False)


# keys


class Extra(Base):
    """It saves more than its tensors."""

    def forward(self, x):
        return self.fc(x)

    def get_extra_state(self):
        return 7

    def set_extra_state(self, state):
        pass


class OwnTrain(Base):
    """One of its modules stays in evaluation mode."""

    def prepare(self):
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.fc(x))

    def train(self, mode=True):
        super().train(mode)
        self.drop.eval()
        return self


def _state_hook(self):
    self.register_state_dict_post_hook(lambda module, state, prefix, _: state.update({f"{prefix}more": X}))


CASES["extra state"] = Case(Hazard.KEYS, Extra, nested=False)
CASES["a train of its own"] = Case(Hazard.KEYS, OwnTrain, nested=False)


@case(Hazard.KEYS, "a state hook", _state_hook, nested=False)
def _(self, x):
    return self.fc(x)


# optional arguments


@case(Hazard.NONE, "an optional argument", calls=((X,), (X, X)), nested=False)
def _(self, x, scale=None):
    return self.fc(x) if scale is None else self.fc(x) * scale


@case(Hazard.NONE, "all that is given", calls=((X,), (X, X)), nested=False)
def _(self, x, *more):
    return self.fc(x) * more[0] if more else self.fc(x)
