"""Text that is always there: what Python's own help says of the language."""

from __future__ import annotations

from functools import cache
from pydoc_data.topics import topics

import torch
from torch import Tensor

#: printable ASCII and the line break; whatever else there is counts as one more character
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
VOCABULARY = len(CHARACTERS) + 1


@cache
def text(size: int = 300_000) -> tuple[Tensor, Tensor]:
    """Return the characters for training, and a tenth as many for tests, as numbers."""
    joined = "\n\n".join(topics[name] for name in sorted(topics))[: size + size // 10]
    numbers = {character: index for index, character in enumerate(CHARACTERS)}
    encoded = torch.tensor([numbers.get(character, VOCABULARY - 1) for character in joined])
    return encoded[:size], encoded[size:]


def windows(encoded: Tensor, count: int, length: int, order: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return that many random stretches, and the same one character later."""
    starts = torch.randint(len(encoded) - length - 1, (count, 1), generator=order)
    where = starts + torch.arange(length)
    return encoded[where], encoded[where + 1]
