"""What was done to load a file into a model, tensor by tensor."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

#: ``"as is"``: copied; ``"folded"``: composed, for the model holds a plain weight; ``"split"``: the other way;
#: ``"respelled"``: the same numbers under other keys; ``"folded and split"``: composed, and split as the model does;
#: ``"tied"``: the file lacks it, and has what the model ties it to.
How: TypeAlias = Literal["as is", "folded", "split", "respelled", "folded and split", "tied"]
AS_IS: How = "as is"


@dataclass(frozen=True)
class Loaded:
    """One weight of a model, or one of its other tensors.

    Attributes:
        name: its dotted name in the model; of a weight in parts, that of the weight.
        how: see `How`.
        keys: the keys of the model that were set.
        max_abs_error: how far an element of the weight that the model computes with may be from that of the file, where
            its dtype is another or its parts cannot hold it exactly; 0.0 says that there is no difference.
    """

    name: str
    how: How
    keys: tuple[str, ...]
    max_abs_error: float = 0.0


@dataclass(frozen=True)
class LoadReport:
    """What was done with each tensor of a model.

    Attributes:
        loaded: one entry for each weight and each other tensor of the model.
        place: where in the file they were; empty for its root.
        notes: what the user should know besides.
    """

    loaded: tuple[Loaded, ...]
    place: str = ""
    notes: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the model has exactly the weights of the file."""
        return all(each.max_abs_error == 0.0 for each in self.loaded)

    @property
    def max_abs_error(self) -> float:
        """The largest of all entries."""
        return max((each.max_abs_error for each in self.loaded), default=0.0)

    @property
    def counts(self) -> dict[How, int]:
        """How many were loaded in which way."""
        return dict(Counter(each.how for each in self.loaded))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return {**asdict(self), "exact": self.exact, "max_abs_error": self.max_abs_error}

    def __str__(self) -> str:
        lines = [", ".join(f"{count} {how}" for how, count in self.counts.items()) or "nothing to load"]
        lines += [f"  note: {note}" for note in self.notes]
        for each in self.loaded:
            error = f", off by up to {each.max_abs_error:.2g}" if each.max_abs_error else ""
            if each.how != AS_IS or error:
                lines.append(f"  {each.name}: {each.how}{error}")
        return "\n".join(lines)
