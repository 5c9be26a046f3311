"""A model in each form in which its weights may be composed."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrizations, weight_norm

import wnconvert


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(3, 4, 3), nn.Tanh(), nn.ConvTranspose1d(4, 5, 3))


def by_hooks() -> nn.Module:
    model = plain()
    weight_norm(model[0])
    weight_norm(model[2], dim=1)
    return model


def by_parametrizations() -> nn.Module:
    model = plain()
    parametrizations.weight_norm(model[0])
    parametrizations.weight_norm(model[2], dim=1)
    return model


#: by who composes them; all keep the dim of the outputs
MAKERS = {
    "module": lambda: wnconvert.apply(plain(), dim="output").model,
    "graph": lambda: wnconvert.apply(plain(), dim="output", how="graph").model,
    "hooks": by_hooks,
    "parametrizations": by_parametrizations,
}
