"""With the observation of any one hazard switched off, the fuzzer finds differences."""

from __future__ import annotations

import pytest

from tests.fuzz.differential import compare
from tests.fuzz.drawing import Plan
from tests.fuzz.twins import DifferenceError
from tests.fuzz.ways import GRAPH
from wnconvert.tracing import tracing
from wnconvert.tracing.hazards import Hazard

pytestmark = pytest.mark.filterwarnings("ignore")  # a forward may do what torch warns of

#: constructs that the observation of one hazard keeps from a wrong graph; of some, another one does so too
SHOWN_BY = {
    Hazard.VALUE: ("TriesIteration", "TriesFloat"),
    Hazard.TYPE: ("ResultIsATuple", "ResultHasAttribute"),
    Hazard.CONTEXT: (
        "NoGradContext",
        "EnableGrad",
        "InferenceModeDecorator",
        "AutocastOn",
        "AutocastOff",
        "SavedOnCpu",
    ),
    Hazard.MODE: ("TrainingRead", "DropPath", "GradEnabledRead", "AutocastRead", "RunningMeanInPlace"),
    Hazard.RANDOM: ("NormalNoise", "ScalarDraw", "Permuted", "ForksTheGenerator"),
    Hazard.CONSTANT: ("ConstantReturned",),
    Hazard.WRITE: ("ZerosAccumulated",),
    Hazard.STATE: ("CounterUnread", "KeepsLast", "WritesToChild", "LazyBuffer"),
    Hazard.HOOK: ("CountingHookOfRoot", "ChangingPreHookOfContainer", "ChangingBackwardHookOfRoot"),
    Hazard.CALL: ("OverriddenCall",),
    Hazard.KEYS: ("ExtraState", "StateDictHook", "FrozenChild"),
    Hazard.NONE: ("OptionalMask", "RequiredMask", "NoneIsMadeATensor"),
}


@pytest.mark.parametrize("hazard", Hazard, ids=lambda hazard: hazard.name)
def test_a_hazard_that_is_not_observed_is_found(hazard, monkeypatch):
    for name in SHOWN_BY[hazard]:
        compare(Plan(name), 0, GRAPH)
    monkeypatch.setattr(tracing, "OBSERVED", frozenset(Hazard) - {hazard})
    found = []
    for name in SHOWN_BY[hazard]:
        try:
            compare(Plan(name), 0, GRAPH)
        except DifferenceError:
            found.append(name)
    assert found
