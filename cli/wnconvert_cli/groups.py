"""Options that go together: a command takes each group as one object.

A group is a dataclass with one annotated option a field; `flattened` gives typer the fields in the place of the group.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_type_hints

import typer

from wnconvert.errors import OptionError
from wnconvert_cli import options
from wnconvert_cli.answer import Answer
from wnconvert_cli.imports import local_imports
from wnconvert_cli.texts import read_device

if TYPE_CHECKING:
    from wnconvert.device import Device
    from wnconvert.selection import Selection


@dataclass(frozen=True)
class Scope:
    """Which weights are converted, where, and what becomes of the state of optimizers that belongs to them."""

    include: options.Include = None
    exclude: options.Exclude = None
    op: options.Op = None
    min_size: options.MinSize = 0
    model: options.Model = None
    only: options.Only = None
    optimizer: options.Optimizer = options.Optimizers.drop
    device: options.Device = None

    @cached_property
    def where(self) -> Device:
        """The device on which weights are computed; it is tried when it is first asked for.

        Raises:
            OptionError: no device is called so, or it holds no values.
            DeviceError: there is none here.
        """
        return read_device(self.device)

    @property
    def selection(self) -> Selection:
        """The selection of weights."""
        from wnconvert.selection import Selection

        return Selection(tuple(self.include or ("*",)), tuple(self.exclude or ()), tuple(self.op or ()), self.min_size)

    @property
    def places(self) -> dict[str, Any]:
        """What conversions of checkpoints are told besides."""
        return {"within": self.only or (), "optimizer": self.optimizer.value, "device": self.where}


@dataclass(frozen=True)
class Writing:
    """What is written, and what is shown of it."""

    format: options.ToFormat = None
    output: options.Output = None
    output_dir: options.OutputDir = None
    force: options.Force = False
    dry_run: options.DryRun = False
    strict: options.Strict = False
    json: options.Json = False
    quiet: options.Quiet = False


@dataclass(frozen=True)
class Views:
    """What is shown of the weights in a file, and where."""

    distributions: options.Distributions = False
    against: options.Against = None
    plot: options.Plot = None
    html: options.Page = None
    force: options.Force = False

    @property
    def measures(self) -> bool:
        """Whether any of it takes numbers of each weight."""
        return self.distributions or self.plot is not None or self.html is not None


@dataclass(frozen=True)
class Opening:
    """What becomes of the code that a file names."""

    trust: options.Trust = False
    state_dict: options.AsStateDict = False

    def __post_init__(self) -> None:
        """Check that the options go together, which needs no file."""
        if self.trust and self.state_dict:
            what = "modules are built by their code (--trust) or read without it (--state-dict)"
            raise OptionError(f"{what}; give one of the two")

    @property
    def how(self) -> dict[str, Any]:
        """What `wnconvert.checkpoint.load` is told."""
        return {"trust": self.trust, "modules": "state_dict" if self.state_dict else "module"}


def flattened(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command as typer reads it: each field of a group is a parameter of its own, at the group's place.

    A parameter for an `Answer` is given that of the call, which knows then what the command was told.
    Where the user has code run (``--model``, ``--trust``), that in the current folder is found.
    """
    signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
    answers = [name for name in signature.parameters if hints.get(name) is Answer]
    groups: dict[str, Any] = {
        name: hints[name] for name in signature.parameters if is_dataclass(hints.get(name)) and name not in answers
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        hint = typer.Context if name in answers else hints.get(name, parameter.annotation)
        own = _parameters(groups[name]) if name in groups else [parameter.replace(annotation=hint)]
        parameters += [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]

    def flat(**values: Any) -> None:  # not by `wraps`: hints of the command would count for parameters of flat
        for name in answers:
            context = values[name]
            context.obj.begin(context)
            values[name] = context.obj
        own_code = values.get("model") or values.get("trust")
        for name, group in groups.items():
            values[name] = group(**{each.name: values.pop(each.name) for each in fields(group)})
        with local_imports() if own_code else nullcontext():
            command(**values)

    flat.__name__, flat.__doc__ = command.__name__, command.__doc__
    flat.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return flat


def _parameters(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[each.name])
        for each in fields(group)
    ]
