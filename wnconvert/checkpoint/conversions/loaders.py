"""What loads a converted file: said of the keys that were written, and of the project where the file shows it.

A folded file has the keys of a plain model. A class that builds its layers with normalization finds none of its own:
``from_pretrained`` makes up what is missing, with a warning, and ``load_state_dict(strict=False)`` leaves it random
without a word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.export import ExportedProgram

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.content.tree import find_state_dicts
from wnconvert.checkpoint.format import FORMATS, Checkpoint
from wnconvert.checkpoint.layout import LAYOUTS, find_groups
from wnconvert.checkpoint.layouts import dora
from wnconvert.report import Converted, Report
from wnconvert.scheme import SCHEMES, Scheme

#: what a model folder says of its class
_CONFIG = "config.json"
#: a larger one is no configuration
_LARGEST = 1 << 20
#: which of torch's modules load strictly what an interface spells
_TORCHS = {
    ("weight_norm", "hook"): "torch's hooks and parametrizations of weight norm",
    ("weight_norm", "parametrization"): "torch's parametrizations of weight norm, and not its hooks",
    ("spectral_norm", "hook"): "torch's hooks of spectral norm, and not its parametrizations",
    ("spectral_norm", "parametrization"): "torch's parametrizations of spectral norm, and not its hooks",
}
#: models of transformers that are built without weight norm, and given it by a method; docs/loading.md tries them
_BUILT_PLAIN = ("dac", "mimi", "univnet", "speecht5_hifigan", "fastspeech2_conformer_hifigan")


class _Config(NamedTuple):
    """The class of a model, and its type as transformers calls that."""

    name: str
    kind: str


@dataclass(frozen=True)
class LoadsInto:
    """What loads a file.

    Attributes:
        text: one line.
        code: lines of Python that load it, with ``path`` for its name and ``model`` for what the reader has built.
    """

    text: str
    code: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, ready for JSON."""
        return {**asdict(self), "code": list(self.code)}

    def __str__(self) -> str:
        return self.text


def loads_into(checkpoint: Checkpoint, report: Report) -> LoadsInto:
    """Return what loads a converted file.

    Args:
        checkpoint: what was converted, as it is now.
        report: what was done.
    """
    if isinstance(checkpoint.content, nn.Module):
        code = ("model = torch.load(path, weights_only=False)",)
        return LoadsInto("the file holds the model itself: torch.load(path, weights_only=False) gives it back", code)
    if isinstance(checkpoint.content, ExportedProgram):
        code = ("program = torch.export.load(path)",)
        return LoadsInto("the file holds the program itself: torch.export.load(path) gives it back", code)
    tensors = _tensors(checkpoint)
    plain = [entry for entry in report.converted if entry.plain]
    if not plain:
        return _of_parts(checkpoint, report, tensors)
    if all(entry.scheme in dora.SCHEMES for entry in plain):
        text = f"the keys of the base ({plain[0].fqn!r}), which has the adapter in it: whatever loads the base"
        return LoadsInto(f"{text}; load strictly", (_call(checkpoint, plain[0]),))
    again = any(tensors.keys() >= set(entry.keys) for entry in plain)
    known = checkpoint.format in FORMATS and FORMATS.get(checkpoint.format).folder
    config = _transformers_config(checkpoint.origin) if known and not again else None
    if config is not None:
        return _of_transformers(config, sum(len(entry.keys) for entry in plain))
    return _of_plain(checkpoint, plain, _key(plain[0], tensors), again)


def _of_plain(checkpoint: Checkpoint, plain: Sequence[Converted], key: str, again: bool) -> LoadsInto:
    """Return what loads weights that are plain now, under keys like ``key``; ``again`` if their class takes those."""
    norms = list(dict.fromkeys(entry.scheme for entry in plain))
    own = "its remove_weight_norm() or " if norms == ["weight_norm"] else ""
    # what does not preserve the function cannot hold any weight
    any_ = not again and all(norm in SCHEMES and SCHEMES.get(norm)().preserving for norm in norms)
    without = (
        "the class as it is would take them without a word, and normalize them again"
        if again
        else "strict=False would leave the layers random; apply --like ORIGINAL gives the old keys back"
    )
    call = _call(checkpoint, plain[0])
    text = (
        f"plain keys ({key!r}): build the model without "
        f"{' and '.join(norms).replace('_', ' ')}, or call {own}wnconvert.fold(model) first; {call} loads it"
        f"{' into any' if any_ else ''}; {without}"
    )
    return LoadsInto(text, ("model, _ = wnconvert.fold(model)", call))


def _key(entry: Converted, tensors: Mapping[str, Tensor]) -> str:
    """Return the key of a plain weight; where it was in a wrapper, the report has the name that it had there."""
    for layout in () if entry.fqn in tensors else LAYOUTS:
        prefixes = LAYOUTS.get(layout)().unwrapped(entry.fqn)
        if prefixes is not None and (key := prefixes[1] + entry.fqn[len(prefixes[0]) :]) in tensors:
            return key
    return entry.fqn


def _call(checkpoint: Checkpoint, entry: Converted) -> str:
    """Return the call that loads the state dict of a converted weight; of several, it says which is meant."""
    found = [".".join(map(str, each.path)) for each in find_state_dicts(checkpoint.content)]
    own = [place for place in found if place and entry.fqn.startswith(f"{place}.")]
    only = f", only={max(own, key=len)!r}" if own and len(found) > 1 else ""
    return f"wnconvert.checkpoint.load_into(model, path{only})"


def _tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return all tensors by their full names."""
    found = find_state_dicts(checkpoint.content)
    return {each.fqn(name): tensor for each in found for name, tensor in each.tensors.items()}


def _of_transformers(config: _Config, lost: int) -> LoadsInto:
    """Return what loads a model folder; ``lost`` is how many tensors the class may look for in vain."""
    name = config.name
    if config.kind in _BUILT_PLAIN:
        text = f"{name}.from_pretrained(path), which builds its layers without normalization"
        return LoadsInto(text, (f"model = transformers.{name}.from_pretrained(path)",))
    text = (
        f"wnconvert.checkpoint.load_into(transformers.{name}(config), path); {name}.from_pretrained(path) would leave "
        f"up to {lost} tensors random, for it builds layers with normalization; apply --like ORIGINAL gives the old "
        f"keys back"
    )
    code = (
        f"model = transformers.{name}(transformers.AutoConfig.from_pretrained(path))",
        "model, _ = wnconvert.fold(model)  # or leave it out, to train on with the normalization",
        "wnconvert.checkpoint.load_into(model, path)",
    )
    return LoadsInto(text, code)


def _of_parts(checkpoint: Checkpoint, report: Report, tensors: Mapping[str, Tensor]) -> LoadsInto:
    """Return what loads weights that are in parts now: by the first of each kind, for there are few kinds."""
    recorded = manifest.read(checkpoint.metadata)
    kinds: dict[Any, Converted] = {}
    for entry in report.converted:
        known = recorded.get(entry.fqn)
        torchs = any("parametrizations." in key for key in entry.keys)
        kinds.setdefault((known.scheme if known else entry.scheme, torchs), entry)
    said = [_of_kind(scheme, entry, tensors) for (scheme, _), entry in kinds.items()]
    text = "; ".join(dict.fromkeys(said))
    return LoadsInto(f"{text}; load strictly", (_call(checkpoint, report.converted[0]),))


def _of_kind(scheme: Scheme | str, entry: Converted, tensors: Mapping[str, Tensor]) -> str:
    own = {key: tensors[key] for key in entry.keys if key in tensors}
    if not own:  # it was in the parts of an adapter, and is in others now
        module = entry.fqn.rpartition(".")[0]
        own = {key: tensor for key, tensor in tensors.items() if key.startswith(f"{module}." if module else "")}
    found = find_groups(own, named=lambda _: True) if own else []
    group = next((each for each in found if each.stem == entry.fqn), next(iter(found), None))
    own = own if group is None else {key: own[key] for key in group.keys.values()}
    if scheme in dora.SCHEMES and group is not None:
        scheme = str(group.scheme)
    example = repr(next(iter(own), entry.fqn))
    made = scheme if isinstance(scheme, Scheme) else SCHEMES.get(scheme)() if scheme in SCHEMES else None
    api = LAYOUTS.get(group.layout).api if group is not None else None
    standard = made is not None and made == type(made)()
    if group is not None and standard and made is not None and (made.name, api) in _TORCHS:
        also = ", and models that wnconvert.apply made" if api == "hook" else ""
        return f"keys of {LAYOUTS.get(group.layout).title} ({example}): {_TORCHS[made.name, str(api)]}{also}"
    if group is not None and api is None and LAYOUTS.get(group.layout).spells:
        return f"keys of {LAYOUTS.get(group.layout).title} ({example}): the modules of that"
    if not any(key.startswith(f"{entry.fqn}_") for key in entry.keys):
        return f"keys of the layout that was named ({example}): the modules of that"
    name = made if made is not None else entry.scheme
    return f"keys that only wnconvert has ({example}): models that wnconvert.apply(model, {_called(name)}) made"


def _called(scheme: Scheme | str) -> str:
    return f"wnconvert.{scheme!r}" if isinstance(scheme, Scheme) and scheme != type(scheme)() else repr(_name(scheme))


def _name(scheme: Scheme | str) -> str:
    return scheme.name if isinstance(scheme, Scheme) else scheme


def _transformers_config(folder: Path | None) -> _Config | None:
    """Return what the configuration in a model folder says, if it is one of transformers."""
    if folder is None or not folder.is_dir():
        return None
    path = folder / _CONFIG
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return None
        config = json.loads(path.read_text(encoding="utf-8"))
        name = config["architectures"][0]
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    if "transformers_version" not in config or not isinstance(name, str) or not name.isidentifier():
        return None
    return _Config(name, str(config.get("model_type")))
