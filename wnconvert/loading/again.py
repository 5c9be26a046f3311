"""Weights that were normalized and are plain now, in a module that would normalize them again.

Presets of weight standardization leave no trace in keys: a folded weight has the key that it had, and fits its class
without a word. What was folded is in the record of the file, or said by the presets that were given.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from wnconvert.checkpoint.layout import LAYOUTS
from wnconvert.loading.matching import Match, Step
from wnconvert.modules.foreign.regions import computes_weights


def normalized_again(model: nn.Module, match: Match) -> Iterator[str]:
    """Yield, as texts, the weights that the model would normalize again."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for step in match.steps:
        if isinstance(step.target, str) and _has_kept_its_key(step, step.target, match):
            module = modules.get(step.target.rpartition(".")[0])
            if module is not None and computes_weights(module):
                yield f"{step.target!r} is normalized already, and {type(module).__name__} would do it again"


def _has_kept_its_key(step: Step, target: str, match: Match) -> bool:
    """Return whether a weight is, or was, normalized under the key that a plain one has."""
    if step.parted is not None:
        return set(step.parted.groups[0].keys.values()) == {step.parted.groups[0].stem}
    key = match.copied.get(target, "")
    was = match.place.folded.get(key)
    if was is None or was.layout not in LAYOUTS:
        return False
    layout = LAYOUTS.get(was.layout)()
    return {layout.spell(key, was.scheme, part) for part in layout.spells.get(was.scheme, ())} == {key}
