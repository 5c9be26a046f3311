"""What a forward may do that its graph would not show, or would show wrongly."""

from __future__ import annotations

from enum import Enum


class Hazard(Enum):
    """One kind of thing that tracing observes; the value is the reason that a report gives.

    A graph is a straight list of calls that is made once. Whatever is decided while it is made is decided for good, and
    whatever happens beside the calls is lost. Each member names one way in which that makes a graph another function
    than the model; `wnconvert.tracing.tracer` says how each is seen.
    """

    VALUE = "it takes a decision on a value"
    TYPE = "it asks for the type or for an optional attribute of a value"
    CONTEXT = "it computes under another gradient, inference, autocast or saved-tensor mode than its caller"
    MODE = "it does something else in another mode: training, without gradients, under autocast, or called again"
    RANDOM = "it draws random numbers that are not part of a graph"
    CONSTANT = "it makes a tensor that a graph would hold as a constant"
    WRITE = "it writes to a tensor that a graph would hold as a constant"
    STATE = "it keeps state in an attribute"
    HOOK = "it has hooks, which only run when the module itself is called"
    CALL = "it is called in a way of its own: an instance's forward, an overridden __call__, or compiled"
    KEYS = "it has a way of its own to save or load its state, or to change its mode"
    NONE = "what it computes depends on which optional arguments are given"


class HazardError(RuntimeError):
    """Tracing met a hazard, and the module that it is in has no graph of its own."""

    def __init__(self, hazard: Hazard, detail: str = "") -> None:
        super().__init__(f"{hazard.value} ({detail})" if detail else hazard.value)
        self.hazard = hazard
