"""The comparison: a model that nobody touched, and one that was converted, step by step."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

import wnconvert
from tests.fuzz.constructs import BATCH, CONSTRUCTS, WIDTH
from tests.fuzz.constructs.mode import AUTOCAST
from tests.fuzz.drawing import Plan
from tests.fuzz.observing import Seen, Step, attributes, take
from tests.fuzz.snapshot import Snapshot, World, seed_everything
from tests.fuzz.twins import DifferenceError, Twins, same_or_close, same_tensors
from wnconvert.scheme import Scheme, resolve_scheme


class RefusedError(Exception):
    """The conversion was refused, with reasons, which is never wrong."""


@dataclass(frozen=True)
class Way:
    """A way to convert.

    Attributes:
        name: what it is called where a difference is told.
        convert: the conversion; it gets a model, the scheme, and example inputs.
        graph: whether its result is a graph, whose modules need not have the attributes that only a forward reads.
        copies: whether it leaves the model as it is.
        looks: functions that only look at a model, which are called first.
    """

    name: str
    convert: Callable[[nn.Module, Scheme, tuple[Any, ...]], wnconvert.Conversion]
    graph: bool = False
    copies: bool = True
    looks: tuple[Callable[[nn.Module], Any], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of one comparison that found no difference.

    Attributes:
        converted: how many weights.
        refused: why the conversion was refused, if it was.
        raised: what the model itself raised, if it did: then nothing more could be compared.
        whole: whether the result is a graph, and one that calls no module of the model as one opaque call.
    """

    converted: int = 0
    refused: str = ""
    raised: str = ""
    whole: bool = False


def steps(plan: Plan, training_first: bool) -> list[Step]:
    """Return the steps of a scenario: two calls in a row and every way of calling in each mode, then all contexts."""
    count = len(plan.calls(torch.zeros(BATCH, WIDTH)))
    order = [*range(count), *range(max(2 - count, 0))]
    found = []
    for training in (training_first, not training_first):
        for context, calls in (("grad", order), ("no_grad", [0]), ("autocast", [count - 1])):
            found += [(training, context, call) for call in calls]
    found += [(not training_first, "inference", 0), (training_first, "grad", 0)]
    return [Step(*each, number) for number, each in enumerate(found)]


def compare(
    plan: Plan,
    seed: int,
    way: Way,
    scheme: str | Scheme = "weight_norm",
    training_first: bool = True,
    used: bool = False,
) -> Outcome:
    """Convert a model and compare it in every step with one that nobody touched.

    Args:
        plan: the model.
        seed: of its weights and of all random numbers.
        way: how it is converted.
        scheme: the scheme, one that preserves the function.
        training_first: whether it is converted in training mode and used so first, or in evaluation mode.
        used: whether it has been called before it is converted.

    Returns:
        the outcome.

    Raises:
        DifferenceError: what differs, and where.
    """
    return _Comparison(plan, seed, way, resolve_scheme(scheme), training_first, used).run()


class _Comparison:
    def __init__(self, plan: Plan, seed: int, way: Way, scheme: Scheme, training_first: bool, used: bool) -> None:
        self.plan, self.seed, self.way, self.scheme, self.used = plan, seed, way, scheme, used
        self.steps = steps(plan, training_first)
        self.training = training_first

    def build(self) -> nn.Module:
        model = self.plan.build(self.seed).train(self.training)
        if self.used:
            with contextlib.suppress(Exception):  # seen again, and told, when it is compared
                take(model, self.plan, self.steps[0])
        return model

    def run(self) -> Outcome:
        self._warm_up()
        original = self.build()
        try:
            converted, report = self._convert(original)
        except RefusedError as error:
            return Outcome(refused=str(error))
        reference = self.build()
        twins = Twins(reference, converted, report, self.scheme)
        twins.check_names()
        pristine = self._copy(converted) if self.plan.copies and _can_be_copied(reference) else None
        folded = self._fold(converted, report) if report.converted and pristine is not None else None
        raised = self._check_steps(reference, converted, twins, self.steps, "the converted model")
        if pristine is not None:
            self._check_copies(pristine, report)
        if folded is not None:
            self._check_folded(*folded, report)
        return Outcome(len(report.converted), raised=raised, whole=self.way.graph and _is_whole(converted))

    @staticmethod
    def _copy(converted: nn.Module) -> nn.Module:
        try:
            return copy.deepcopy(converted)
        except Exception as error:
            raise DifferenceError(f"it cannot be deep-copied any more: {error}") from error

    def _warm_up(self) -> None:
        """Fill what classes and globals keep of a run, so that only a conversion can change them afterwards."""
        model = self.build()
        for step in self.steps:
            try:
                take(model, self.plan, step)
            except Exception:  # noqa: BLE001 - seen again, and told, when it is compared
                return

    def _convert(self, original: nn.Module) -> tuple[nn.Module, wnconvert.Report]:
        example = self.plan.calls(torch.randn(BATCH, WIDTH))[0][0]
        seed_everything(self.seed + 1)
        snapshot, given, world = Snapshot(original), Snapshot(example), World()
        for look in self.way.looks:
            look(original)
            self._require(not (changes := snapshot.changes(original)), f"{look.__name__} changed the model", changes)
            self._require(not (changes := world.changes()), f"{look.__name__} changed the process", changes)
        try:
            conversion = self.way.convert(original, self.scheme, example)
        except (wnconvert.TracingError, wnconvert.NothingToConvertError) as error:
            conversion = error
        except wnconvert.WnconvertError as error:
            excused = self.way.copies and not (self.plan.copies and _can_be_copied(original))
            self._require(excused, f"it cannot be converted: {error}")
            conversion = error
        except Exception as error:
            raise DifferenceError(f"the conversion raised {type(error).__name__}: {error}") from error
        if self.way.copies or isinstance(conversion, Exception):
            changes = snapshot.changes(original)
            self._require(not changes, "the conversion changed the original", changes)
        changes = given.changes(example) + world.changes()
        self._require(not changes, "the conversion changed the process or the example", changes)
        if isinstance(conversion, Exception):
            refused_alone = isinstance(conversion, wnconvert.TracingError) and not self.way.graph
            self._require(not refused_alone, f"the conversion was refused: {conversion}")
            raise RefusedError(str(conversion))
        model, report = conversion.model, conversion.report
        proxies = Snapshot(model).proxies
        self._require(not proxies, "a proxy is in the converted model", proxies)
        if not self.way.graph:
            self._require((model is original) != self.way.copies, "the wrong object came back")
        return model, report

    def _check_copies(self, converted: nn.Module, report: wnconvert.Report) -> None:
        """A copy, and what comes back from a pickle, does what the model does.

        Of a graph, torch copies only what the graph uses.
        """
        copies = {"a deep copy": self._copy(converted)}
        # what calls a helper function says that it cannot be pickled
        if _can_be_pickled(self.build()) and not any("loads a pickle" in note for note in report.notes):
            try:
                copies["the pickled model"] = pickle.loads(pickle.dumps(converted))
            except Exception as error:
                raise DifferenceError(f"it cannot be pickled any more: {error}") from error
        for what, copied in copies.items():
            reference = self.build()
            twins = Twins(reference, copied, report, self.scheme, partial=self.way.graph)
            self._check_steps(reference, copied, twins, self.steps[:2], what)

    def _fold(self, converted: nn.Module, report: wnconvert.Report) -> tuple[nn.Module, wnconvert.Report]:
        snapshot, world = Snapshot(converted), World()
        try:
            conversion = wnconvert.fold(converted)
        except Exception as error:
            raise DifferenceError(f"fold raised {type(error).__name__}: {error}") from error
        self._require(not (changes := snapshot.changes(converted)), "fold changed its input", changes)
        self._require(not (changes := world.changes()), "fold changed the process", changes)
        return conversion.model, conversion.report

    def _check_folded(self, folded: nn.Module, fold_report: wnconvert.Report, report: wnconvert.Report) -> None:
        """Folding gives the model back."""
        reference = self.build()
        ours, theirs = {e.fqn for e in report.converted}, {e.fqn for e in fold_report.converted}
        self._require(ours <= theirs, "not everything was folded", sorted(ours - theirs))
        few = self.steps[:2]
        # weights that the model itself computes are folded too, and then gradients go elsewhere
        plain = ours == theirs and all(entry.scheme != "expression" for entry in fold_report.converted)
        if plain:
            same_tensors(folded, reference, "the folded model")
            self._require(self.way.graph or type(folded) is type(reference), "the folded model has another class")
        else:
            few = [replace(step, training=False, context="no_grad") for step in few]
        self._check_steps(reference, folded, None, few, "the folded model", parameters=plain)

    def _check_steps(
        self,
        reference: nn.Module,
        other: nn.Module,
        twins: Twins | None,
        chosen: list[Step],
        what: str,
        parameters: bool = True,
    ) -> str:
        at_first = attributes(reference)
        for step in chosen:
            where = f"{what}, {step}"
            seed_everything(self.seed + step.number)
            try:
                expected = take(reference, self.plan, step)
            except Exception as error:  # noqa: BLE001 - a model may raise anything
                return f"{type(error).__name__}: {error}"
            seed_everything(self.seed + step.number)
            try:
                actual = take(other, self.plan, step)
            except Exception as error:
                raise DifferenceError(f"{where}: raised {type(error).__name__}: {error}") from error
            try:
                _same_facts(actual, expected, twins, parameters, self._rounded(step))
                if twins is not None:
                    twins.check_values()
                self._same_attributes(attributes(other), attributes(reference), at_first, parameters)
            except DifferenceError as error:
                raise DifferenceError(f"{where}: {error}") from None
        return ""

    def _same_attributes(self, actual: Any, expected: Any, at_first: Any, parameters: bool) -> None:
        """Of a graph, only what the forward has changed by now need be there: nothing else is ever read."""
        if self.way.graph:
            wanted = {path: value for path, value in expected.items() if at_first.get(path) != value}
            wanted = {path: value for path, value in wanted.items() if not path.endswith((".training", "(modules)"))}
            # an object that hangs on several modules is there if it is on one of them
            reached = {(path.rpartition(".")[2], repr(actual[path])) for path in wanted if path in actual}
            wanted = {
                path: value
                for path, value in wanted.items()
                if path in actual or (path.rpartition(".")[2], repr(value)) not in reached
            }
            gone = [path for path in at_first if path not in expected and path in actual]
        elif not parameters:
            return
        else:
            # a list of parameters may become one that is made anew from the composed weights
            lists = {path.rpartition(".")[0] for path, value in expected.items() if value == "a parameter"}
            wanted = {path: value for path, value in expected.items() if path not in lists and value != "a parameter"}
            gone = [
                path
                for path in actual
                if path not in expected and ".wnconvert" not in path and "._wnconvert" not in path
            ]
        changed = sorted({path for path, value in wanted.items() if actual.get(path) != value} | set(gone))
        self._require(
            not changed, "attributes differ", [(path, actual.get(path), wanted.get(path)) for path in changed]
        )

    def _rounded(self, step: Step) -> bool:
        """Whether gradients were added up in bfloat16.

        Autocast casts a parameter once, and adds the gradients of all its uses in bfloat16; anything computed it casts
        at each use. Torch's own parametrizations differ there in the same way.
        """
        return step.context == "autocast" or any(CONSTRUCTS[name].hazard == AUTOCAST for name in self.plan.constructs())

    @staticmethod
    def _require(condition: bool, what: str, details: Any = None) -> None:
        if not condition:
            raise DifferenceError(f"{what}: {str(details)[:600]}" if details else what)


def _same_facts(actual: Seen, expected: Seen, twins: Twins | None, parameters: bool, rounded: bool) -> None:
    for name in twins.common(actual.facts, expected.facts) if twins else [*expected.facts, *actual.facts]:
        if actual.facts.get(name) != expected.facts.get(name) and (parameters or not name.startswith("buffer")):
            raise DifferenceError(f"{name} differs: {actual.facts.get(name)} instead of {expected.facts.get(name)}")
    for name, state in expected.random.items():
        if actual.random[name] != state:
            raise DifferenceError(f"{name} differ afterwards")
    if parameters:
        wanted = twins.gradients(expected.gradients) if twins else expected.gradients
        if wanted.keys() != actual.gradients.keys():
            raise DifferenceError(f"other parameters have gradients: {sorted(wanted.keys() ^ actual.gradients.keys())}")
        largest = max((gradient.abs().max().item() for gradient in wanted.values()), default=0.0)
        for name, gradient in wanted.items():
            try:
                tolerance = {"rtol": 0.02, "atol": 0.02 * largest} if rounded else {}
                same_or_close(actual.gradients[name], gradient, **tolerance)
            except AssertionError as error:
                raise DifferenceError(f"the gradient of {name} differs: {error}") from None


def _can_be_copied(model: nn.Module) -> bool:
    try:
        copy.deepcopy(model)
    except Exception:  # noqa: BLE001 - copying runs the classes' own code
        return False
    return True


def _can_be_pickled(model: nn.Module) -> bool:
    try:
        pickle.loads(pickle.dumps(model))
    except Exception:  # noqa: BLE001 - pickling runs the classes' own code
        return False
    return True


def _is_whole(model: nn.Module) -> bool:
    """Whether a graph looks into every module but those of torch."""
    calls = [node for node in model.graph.nodes if node.op == "call_module"]
    kinds = [type(model.get_submodule(str(node.target))) for node in calls]
    return all(kind.__module__.startswith("torch.nn") for kind in kinds)
