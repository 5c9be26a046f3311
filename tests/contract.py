"""What the contract of every scheme is tested with: all schemes, and shapes with kept dims."""

from __future__ import annotations

import pytest

from tests.covering import pairwise
from tests.helpers import DTYPES, label, variant_id, variants
from wnconvert.scheme import SCHEMES

ALL = variants()
PRESERVING = [scheme for scheme in ALL if scheme.preserving]
CHANGING = [scheme for scheme in ALL if not scheme.preserving]
CLASSES = [SCHEMES.get(name) for name in SCHEMES]

#: shapes with kept dims: no dim to five dims; the whole tensor, one dim, several dims, nothing reduced, sizes of 1
CASES = [
    ((), ()),
    ((5,), (0,)),
    ((5,), ()),
    ((1,), (0,)),
    ((4, 6), (0,)),
    ((4, 6), (1,)),
    ((4, 6), ()),
    ((4, 6), (0, 1)),
    ((1, 5), (0,)),
    ((4, 3, 5), (2,)),
    ((4, 3, 5), (0, 2)),
    ((4, 3, 3, 3), (0,)),
    ((4, 3, 3, 3), (1,)),
    ((6, 1, 1, 1), (0,)),
    ((2, 3, 2, 3, 2), (1,)),
    ((2, 3, 2, 3, 2), (0, 1)),
]

each = pytest.mark.parametrize("scheme", ALL, ids=variant_id)
each_preserving = pytest.mark.parametrize("scheme", PRESERVING, ids=variant_id)
each_changing = pytest.mark.parametrize("scheme", CHANGING, ids=variant_id)
each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.name)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
each_case = pytest.mark.parametrize(("shape", "kept"), CASES)
#: any two of the three, for what does not depend on rounding
each_two = pytest.mark.parametrize(("scheme", "case", "dtype"), pairwise(ALL, CASES, DTYPES), ids=label)
