"""Loading any file into any model: strictly, wholly or not at all, each weight in the form in which the model holds it.

    model = Generator(config)  # plain, with torch's hooks or parametrizations, converted, wrapped in DDP
    print(checkpoint.load_into(model, "vocoder.folded.pt"))

The model's own state dict says what is wanted, and its modules how its weights are composed. What the file has in the
same form is copied; what it has in another is composed, split or respelled on the way.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from wnconvert.checkpoint.files import load
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.layout import Layout, resolve_presets
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.checkpoint.weights.outcome import DimOrDefault
from wnconvert.errors import CheckpointError, KindError, OptionError, described
from wnconvert.loading.again import normalized_again
from wnconvert.loading.converting import convert
from wnconvert.loading.filling import fill
from wnconvert.loading.forms import Held, held_by
from wnconvert.loading.matching import Match, Matching
from wnconvert.loading.places import Place, places
from wnconvert.loading.report import LoadReport
from wnconvert.modules.hooks import kind_of
from wnconvert.torch_private import forward_pre_hooks_of

#: so many names are told of each kind; more would hide the rest
_TOLD = 5
#: what is said where a model holds weights in a form that others do not fit into
_PLAIN = " (a model without the normalization holds any weight: wnconvert.fold(model))"
#: so many prefixes are tried to find where else the tensors of the model are
_TRIED = 10


def load_into(
    model: nn.Module,
    source: str | os.PathLike[str] | Opened | Checkpoint,
    *,
    only: str | None = None,
    dim: DimOrDefault = "default",
    presets: Iterable[str | Layout] = (),
) -> LoadReport:
    """Load a file of whatever layout and container into a model of whatever form.

    The model keeps what it is: its parameters and buffers, their dtypes, devices, ties and ``requires_grad``; only
    their values change. Everything in the file must have its place in the model, and the other way round; the prefixes
    of training wrappers count for nothing. If anything is missing, left over or of another shape, the model is not
    changed. While it is loaded, its former values are kept in memory.

    Args:
        model: the model.
        source: the file or folder, or what `wnconvert.checkpoint.load` made of it. Pickled modules are read as their
            state dicts, without their code.
        only: a dotted path to the tensors of this model, through dicts and then through the names in one of them. By
            default, the one place in the file that fits.
        dim: the kept dim, for weights that show it neither in the file nor in the model.
        presets: layouts of the file that leave no trace in its keys, by name (``"timm"``, ``"nfnet:gamma=1.7"``) or as
            `wnconvert.checkpoint.preset` makes them.

    Returns:
        what was done with each tensor.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the model.
        KindError: the model is nothing that can be loaded into as it is.
        UnknownNameError: there is no such layout.
        OptionError: there is no tensor below ``only``, or several places in the file fit, or a preset cannot be used.
    """
    held, given = _held(model), resolve_presets(presets)
    known = isinstance(source, Checkpoint)
    checkpoint = source if isinstance(source, Checkpoint) else load(source, modules="state_dict")
    path = checkpoint.origin if isinstance(source, Checkpoint) else _path(source)

    def matched(place: Place) -> Match:
        return Matching(place, held, dim, given).run()

    match = _chosen(list(map(matched, places(checkpoint, only))))
    what = "the checkpoint" if path is None else repr(str(path))
    if match is None:
        raise CheckpointError(f"{what} holds no dict of tensors")
    made = convert(match, held) if match.fits else None
    refused = [*made.refused, *normalized_again(model, match)] if made else []
    if made is None or refused:
        said = _said(match, refused)
        way_out = _PLAIN if made else _way_out(checkpoint, match, matched)
        raise CheckpointError(f"{what} does not fit {type(model).__name__}: {said}; nothing was loaded{way_out}")
    _load(model, held, made.entries)
    notes = dict.fromkeys([*(() if known else checkpoint.notes), *match.notes, *made.notes])
    return LoadReport(tuple(made.loaded), match.place.name, tuple(notes))


def _path(source: str | os.PathLike[str] | Opened) -> Any:
    return source.path if isinstance(source, Opened) else source


def _held(model: Any) -> Held:
    if not isinstance(model, nn.Module):
        raise KindError(f"a {type(model).__name__} is no module; give the model that shall have the weights")
    for key, tensor in chain(model.named_parameters(), model.named_buffers()):
        if is_lazy(tensor):
            raise KindError(f"{key!r} of the model is not initialized yet; run the model once")
    held = held_by(model)
    for key, value in held.tensors.items():
        if value.is_meta:
            raise KindError(f"{key!r} of the model is on the meta device; call model.to_empty(device=...) first")
        if type(value) not in (Tensor, nn.Parameter, nn.Buffer):
            raise KindError(
                f"{key!r} of the model is a {type(value).__name__}; load into the model before it is sharded"
            )
    return held


def _chosen(matches: list[Match]) -> Match | None:
    """Return the place that fits, or the one that comes nearest.

    Raises:
        OptionError: several fit.
    """
    fitting = [match for match in matches if match.fits]
    if len(fitting) > 1:
        names = ", ".join(repr(str(match.place)) for match in fitting)
        raise OptionError(f"the file fits the model at several places ({names}); say which, by only=...")
    if fitting:
        return fitting[0]
    return min(matches, key=lambda match: len(match.missing) + len(match.left) + len(match.misfits), default=None)


def _said(match: Match, refused: list[str]) -> str:
    """Return all that keeps a file from being loaded."""
    where = f" at {match.place.name!r}" if match.place.name else ""
    said = [
        _told("lacks", map(repr, match.missing)),
        _told("has more than the model", map(repr, match.left)),
        _told("has other shapes", match.misfits),
        _told("has what the model cannot hold", refused),
    ]
    return f"it{where} {'; '.join(text for text in said if text)}"


def _told(what: str, each: Iterable[str]) -> str:
    texts = list(each)
    more = f" and {len(texts) - _TOLD} more" if len(texts) > _TOLD else ""
    return f"{what}: {', '.join(texts[:_TOLD])}{more}" if texts else ""


def _way_out(checkpoint: Checkpoint, match: Match, again: Callable[[Place], Match]) -> str:
    """Return where else the tensors of the model are, if all of them have names with one prefix more."""
    prefixes: Counter[str] = Counter()
    for key in match.left if match.missing else ():
        atoms = key.split(".")
        prefixes.update(".".join(atoms[:length]) for length in range(1, len(atoms)))
    for prefix, _ in prefixes.most_common(_TRIED):
        place = f"{match.place.name}.{prefix}" if match.place.name else prefix
        if any(again(each).fits for each in places(checkpoint, place)):
            return f" (all of it is below {place!r}: give only={place!r})"
    return ""


def _load(model: nn.Module, held: Held, entries: dict[str, Any]) -> None:
    """Load what fits, and leave the model as it was if that fails."""
    tensors = {id(t): t for t in chain(held.tensors.values(), model.parameters(), model.buffers())}
    inference = any(tensor.is_inference() for tensor in tensors.values()) or torch.is_inference_mode_enabled()
    with torch.inference_mode(inference), torch.no_grad(), _or_nothing(list(tensors.values())):
        fill(model, entries)
    for module in model.modules():
        _compose_again(module)


@contextmanager
def _or_nothing(tensors: list[Tensor]) -> Iterator[None]:
    """Give tensors their values back if something fails."""
    before = [tensor.detach().to("cpu", copy=True) for tensor in tensors]
    try:
        yield
    except BaseException as error:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.detach().copy_(value)
        if isinstance(error, Exception):
            raise CheckpointError(f"the model refuses what fits it ({described(error)}); nothing was loaded") from error
        raise


def _compose_again(module: nn.Module) -> None:
    """Compose what torch's older hooks compose before each forward, for it may be read without one."""
    for hook in forward_pre_hooks_of(module).values():
        kind = kind_of(hook)
        if kind is not None:
            trains = getattr(module, hook.name).requires_grad
            with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
                setattr(module, hook.name, hook.compute_weight(module, **kind.evaluating))
