"""Parameter groups for an optimizer, so that weight decay acts on weights and not on their parts."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from wnconvert.errors import OptionError
from wnconvert.training.composed import composed_weights

#: parts that are added to the weight, or are the logarithm of what multiplies it: zero is no smaller weight
_NOT_DECAYED = frozenset({"s", "shift"})


def parameter_groups(
    model: nn.Module, *, weight_decay: float = 0.0, lr: float | None = None, lr_g: float | None = None
) -> list[dict[str, Any]]:
    """Return the trainable parameters of ``model`` in groups for any optimizer of torch, each parameter once.

    ========== ================================================= ============
    name       parameters                                        weight decay
    ========== ================================================= ============
    weights    plain weights: two dims or more                   yes
    directions ``v`` of weight norm, ``orig`` of spectral norm.. no
    magnitudes ``g``, ``gain``, ``gamma``: ``norm(w) = abs(g)``  yes
    others     biases, gains of other normalizations, ``shift``  no
    ========== ================================================= ============

    A direction is divided by its norm, so decay cannot make the weight smaller. It makes the *direction* shorter, and
    by that the steps larger: the effective learning rate is ``lr / norm(v)**2`` (van Laarhoven 2017,
    https://arxiv.org/abs/1706.05350). What decay does to a plain weight, it does to ``g``.

    Args:
        model: a converted model, or one with torch's own weight or spectral norm; others have no such parts.
        weight_decay: of the weights and the magnitudes.
        lr: the learning rate of all groups; by default the optimizer's.
        lr_g: the learning rate of the magnitudes; by default that of the others.

    Returns:
        groups with ``name``, ``params``, ``weight_decay`` and, where given, ``lr``; those without parameters are left
        out.

    Raises:
        KindError: it is no module.
        OptionError: a negative or infinite number, or a lazy parameter that has no shape yet.
    """
    for name, value in (("weight_decay", weight_decay), ("lr", lr), ("lr_g", lr_g)):
        is_number = isinstance(value, (int, float, Tensor)) or (value is None and name != "weight_decay")
        if not is_number or (value is not None and not 0 <= value < float("inf")):
            raise OptionError(f"{name} is {value!r}; it must be a finite number from 0 up")
    weights = composed_weights(model)
    for key, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise OptionError(f"parameter {key!r} has no shape yet; run the model once first")
    kinds: dict[int, str] = {}
    for weight in weights:
        for part, tensor in weight.parts.items():
            kind = "directions" if part == weight.scheme.direction else "magnitudes"
            kinds[id(tensor)] = "others" if part in _NOT_DECAYED else kind
    groups: dict[str, dict[str, Any]] = {
        "weights": {"params": [], "weight_decay": weight_decay, "lr": lr},
        "directions": {"params": [], "weight_decay": 0.0, "lr": lr},
        "magnitudes": {"params": [], "weight_decay": weight_decay, "lr": lr if lr_g is None else lr_g},
        "others": {"params": [], "weight_decay": 0.0, "lr": lr},
    }
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = kinds.get(id(parameter), "weights" if parameter.dim() > 1 else "others")
            groups[kind]["params"].append(parameter)
    return [
        {"name": name, **{key: value for key, value in group.items() if value is not None}}
        for name, group in groups.items()
        if group["params"]
    ]
