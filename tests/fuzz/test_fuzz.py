"""The fuzzer: every construct alone, and models drawn at random; ``python -m pytest -m fuzz`` draws 2000 of them."""

from __future__ import annotations

import os

import pytest
import torch

from tests.fuzz.constructs import CONSTRUCTS
from tests.fuzz.drawing import Plan
from tests.fuzz.fuzzing import fuzz

MODELS = int(os.environ.get("WNCONVERT_FUZZ_MODELS", "2000"))
FEW = 32
CHUNK = 25

pytestmark = pytest.mark.filterwarnings("ignore")  # a forward may do what torch warns of


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The bits of a product may depend on how many threads compute it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_a_construct_alone(name):
    fuzz(sorted(CONSTRUCTS).index(name), Plan(name))


@pytest.mark.parametrize("seed", range(FEW))
def test_a_model_drawn_at_random(seed):
    fuzz(seed)


@pytest.mark.fuzz
@pytest.mark.slow
@pytest.mark.parametrize("first", range(FEW, MODELS, CHUNK))
def test_many_models_drawn_at_random(first):
    failures = []
    for seed in range(first, min(first + CHUNK, MODELS)):
        try:
            fuzz(seed)
        except AssertionError as error:
            failures.append(str(error))
    assert not failures, "\n\n".join(failures)
