"""What a conversion did: plain frozen data, one entry per weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal

from wnconvert.reasons import Reason


@dataclass(frozen=True)
class Converted:
    """A weight that was converted.

    Attributes:
        fqn: dotted name of the plain weight, ``"conv1.weight"``.
        op: the weighted ops that read it, comma-separated, ``"conv2d"``; empty where only a file was seen.
        scheme: name of the scheme, or ``"expression"`` for a folded subgraph that no scheme claims.
        keys: dotted names of the parts.
        dims: the reduced dims, where the scheme is known.
        kept_dim: the others, which keep their size in the magnitude: one as a rule; none where the whole tensor is
            reduced.
        how: ``"graph"``; ``"opaque region"``, in place inside what the graph does not look into; ``"in place"``, where
            there is no graph; or ``"file"``.
        max_abs_error: largest absolute change of an element of the effective weight; 0.0 says bit-identical.
        plain: whether the weight is plain now, rather than in these parts. Its key does not always tell: weights that
            are standardized have it before and after.
    """

    fqn: str
    op: str
    scheme: str
    keys: tuple[str, ...]
    dims: tuple[int, ...] | None = None
    how: str = "graph"
    max_abs_error: float = 0.0
    kept_dim: tuple[int, ...] | None = None
    plain: bool = False


@dataclass(frozen=True)
class Fused:
    """A normalization of activations that became part of the weights beside it. It is not exact, but measured.

    Attributes:
        fqn: dotted name of its module, or of the first tensor that it read.
        fusion: name of the fusion.
        into: dotted names of the weights that took it in.
        place: whether it stood ``"after"`` the layer or ``"before"``.
    """

    fqn: str
    fusion: str
    into: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class Measured:
    """How far a model is from the exact result, before and after it was fused.

    An error is ``norm(y - exact) / norm(exact)``, with ``exact`` computed in float64 by the model as it was.

    Attributes:
        unfused: error of the model as it was.
        fused: error of the fused model.
        dtype: the dtype that both compute in.
        inputs: on what: ``"given"`` or ``"random"``.
    """

    unfused: float
    fused: float
    dtype: str
    inputs: str


@dataclass(frozen=True)
class Skipped:
    """A weight that was left as it was.

    Attributes:
        fqn: dotted name of the weight; of one that is computed and has none, `keys` in a row.
        op: the weighted op that reads it; empty where only a file was seen.
        reason: why, in a lower-case phrase; `Reason.why` says it to programs.
        keys: dotted names of what it is computed from, where it is.
    """

    fqn: str
    op: str
    reason: Reason
    keys: tuple[str, ...] = ()

    @property
    def already(self) -> bool:
        """Whether it is in the wanted state, so that leaving it is the right result."""
        return self.reason.why.already

    @property
    def missed(self) -> bool:
        """Whether it was asked for and is not in the wanted state."""
        return self.reason.why.missed


@dataclass(frozen=True)
class StaleOptimizer:
    """State of an optimizer that belongs to the parameters as they were before a conversion.

    Attributes:
        path: dotted place in the checkpoint, or the name of a file beside it.
        became: ``"dropped"``, it is left out; ``"reset"``, it is empty, with groups as long as they are now; or
            ``"kept"`` as it was.
    """

    path: str
    became: Literal["dropped", "reset", "kept"]

    def __str__(self) -> str:
        told = {
            "dropped": "is left out, for its state belongs",
            "reset": "keeps its hyper-parameters only, for its state belonged",
            "kept": "is kept, though its state belongs",
        }
        return f"{self.path!r} {told[self.became]} to the parameters as they were"


@dataclass(frozen=True)
class Finding:
    """Something that silently misbehaves on a normalized model.

    Attributes:
        topic: what one would do when it shows, ``"quantization"``.
        fqns: dotted names of the weights concerned.
        problem: what happens.
        remedy: what to do.
    """

    topic: str
    fqns: tuple[str, ...]
    problem: str
    remedy: str


def layers(ops: Iterable[str]) -> str:
    """Return how many layers of which kind some ops are, one entry a layer: ``2 convolutions and 1 other layer``."""
    ops = list(ops)
    convolutions = sum("conv" in op.lower() for op in ops)
    kinds = (convolutions, "convolution"), (len(ops) - convolutions, "other layer" if convolutions else "layer")
    return " and ".join(f"{count} {noun if count == 1 else noun + 's'}" for count, noun in kinds if count)


@dataclass(frozen=True)
class Report:
    """The outcome of one conversion, weight by weight."""

    converted: tuple[Converted, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = field(default=())
    optimizers: tuple[StaleOptimizer, ...] = ()
    fused: tuple[Fused, ...] = ()
    measured: Measured | None = None

    def __add__(self, other: Report) -> Report:
        return Report(
            self.converted + other.converted,
            self.skipped + other.skipped,
            self.notes + other.notes,
            self.optimizers + other.optimizers,
            self.fused + other.fused,
            self.measured or other.measured,
        )

    @property
    def modified(self) -> bool:
        """Whether anything was converted or fused."""
        return bool(self.converted or self.fused)

    @property
    def missed(self) -> tuple[Skipped, ...]:
        """What was asked for and is not in the wanted state; strict conversions refuse that."""
        return tuple(entry for entry in self.skipped if entry.missed)

    @property
    def exact(self) -> bool:
        """Whether every effective weight is bit-identical to what it was; a fused one never is."""
        return not self.fused and all(entry.max_abs_error == 0.0 for entry in self.converted)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain dicts, lists and strings, ready for JSON."""
        skipped = [
            {"fqn": each.fqn, "op": each.op, "reason": str(each.reason), "why": each.reason.why.name}
            | {"already": each.already, "missed": each.missed, "keys": each.keys}
            for each in self.skipped
        ]
        return {  # not by `asdict`, which copies all texts, one by one
            "converted": [dict(vars(each)) for each in self.converted],
            "skipped": skipped,
            "notes": self.notes,
            "optimizers": [dict(vars(each)) for each in self.optimizers],
            "fused": [dict(vars(each)) for each in self.fused],
            "measured": None if self.measured is None else dict(vars(self.measured)),
        }

    def __str__(self) -> str:
        counts = [f"{len(self.converted)} converted"] if self.converted or not self.fused else []
        counts += [f"{len(self.fused)} fused"] if self.fused else []
        lines = [", ".join([*counts, f"{len(self.skipped)} skipped"])]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  optimizer: {each}" for each in self.optimizers]
        # said once where all weights took one way, which is the usual case
        ways = {entry.how for entry in self.converted}
        if len(ways) == 1:
            lines[0] += f" ({''.join(ways)})"
        for entry in self.converted:
            way = f", {entry.how}" if len(ways) > 1 else ""
            error = f", off by up to {entry.max_abs_error:.2g}" if entry.max_abs_error else ""
            lines.append(f"  {entry.fqn}: {entry.scheme}{way}{error}")
        lines += [f"  {entry.fqn}: {entry.fusion} fused into {', '.join(entry.into)}" for entry in self.fused]
        lines += [f"  {entry.fqn}: skipped, {entry.reason}" for entry in self.skipped]
        if self.measured:
            of = f"{self.measured.fused:.2g}, unfused {self.measured.unfused:.2g}"
            lines.append(f"  error against float64: {of} ({self.measured.dtype}, {self.measured.inputs} inputs)")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the same as a text, with weights that fared alike in one group that unfolds."""
        counts = {"converted": self.converted, "fused": self.fused, "skipped": self.skipped}
        head = ", ".join(f"{len(entries)} {word}" for word, entries in counts.items() if entries or word != "fused")
        rest = str(Report(notes=self.notes, optimizers=self.optimizers, measured=self.measured)).splitlines()[1:]
        groups: dict[str, list[str]] = {}
        for entry in self.converted:
            groups.setdefault(f"{entry.scheme}, {entry.how}", []).append(_with_error(entry))
        for fused in self.fused:
            groups.setdefault(f"{fused.fusion} fused", []).append(f"{fused.fqn} into {', '.join(fused.into)}")
        for skipped in self.skipped:
            groups.setdefault(f"skipped, {skipped.reason}", []).append(skipped.fqn)
        lines = "".join(f"<div>{escape(line.strip())}</div>" for line in rest)
        folded = "".join(
            f"<details><summary>{escape(title)} ({counted(len(names))})</summary>"
            f"<ul>{''.join(f'<li><code>{escape(name)}</code></li>' for name in names)}</ul></details>"
            for title, names in groups.items()
        )
        return f"<div><strong>{escape(head)}</strong>{lines}{folded}</div>"


def _with_error(entry: Converted) -> str:
    return entry.fqn + (f", off by up to {entry.max_abs_error:.2g}" if entry.max_abs_error else "")


def summary(skipped: Sequence[Skipped], limit: int = 3) -> str:
    """Return the reasons in one line, the most frequent first, each with the number of weights."""
    counts = Counter(entry.reason for entry in skipped).most_common()
    shown = [f"{reason} ({counted(count)})" for reason, count in counts[:limit]]
    rest = sum(count for _, count in counts[limit:])
    return "; ".join([*shown, *([f"other reasons ({counted(rest)})"] if rest else [])])


def counted(weights: int) -> str:
    """Return ``"1 weight"`` or ``"2 weights"``."""
    return f"{weights} weight{'' if weights == 1 else 's'}"
