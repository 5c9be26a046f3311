"""The page ``docs/loading.md``: who loads what, one row a project."""

from __future__ import annotations

from pathlib import Path

from tests.loading.projects.rows import Row
from tests.loading.projects.trying import Tried

PAGE = Path(__file__).parents[3] / "docs" / "loading.md"

INTRODUCTION = """\
# Loading: who loads what

A folded file has the keys of a *plain* model: `conv.weight` in the place of `conv.weight_g` and `conv.weight_v`. A
class that builds its layers with weight normalization looks for keys that are no longer there.
`load_state_dict(strict=True)` says so; `strict=False` leaves every folded layer random **without a word**, and
`from_pretrained` of transformers makes the tensors up, with a warning among others.

So give the file to a plain model: build it without weight norm, call its own `remove_weight_norm()` where that works,
or fold the model as it was built, which always works. `checkpoint.load_into` then loads the file strictly, wholly or
not at all. Without the second of the three lines below it loads as well: it splits each weight as the model holds it,
to the same bits, which is the way to train on.

```python
model = Generator(config)  # as ever; its weights are random
model, _ = wnconvert.fold(model)  # plain: no weight norm is left
checkpoint.load_into(model, path)  # anything missing, left over or of another shape is an error
```

Each conversion says on its last line what loads its output. `wnconvert apply --like ORIGINAL` gives a folded file the
old keys back; one that wnconvert folded records them itself, and `wnconvert apply` alone brings them back.

`load_into(model, source, only=..., dim=..., presets=...)` takes a path or what `checkpoint.load` returned. The model
may be plain, have torch's hooks or parametrizations, be converted by wnconvert, in place or as a graph, and be
wrapped in DDP or `torch.compile`. It is asked how it holds each weight; what the file has in another form is folded,
split or respelled. The report has every tensor, with how it was loaded and `max_abs_error`. One place in the file
must fit; if several do, `only="ema.generator"` says which: the names of dicts, and then of what is in one. The
parameters stay the same objects, with their dtypes, devices, ties and `requires_grad`.

What cannot be told from keys, it does not guess: a weight whose parts no known module composes is copied if the keys
are the same, and refused otherwise; so is a weight that a spectral norm would change.

Weight standardization leaves no trace in keys. What was folded of it (`--preset timm-bit`) fits its class, which
standardizes it again; `load_state_dict` does not notice. `load_into` reads the record that wnconvert left, and refuses.

## Projects

`python -m tests.loading.projects.generate` writes this table, and each row is a test: a small model of the class is
saved as the project does, folded, and loaded by the lines. Its outputs then have the very bits of the model with its
normalization; of an adapter, those of PEFT's `merge_and_unload()`. **lost** is how many tensors of the class are random
if the folded file is loaded like the project's own: by `from_pretrained`, or with `strict=False`; where none is, the
model may still normalize its weights again. Classes with a star are written in the tests after their sources.

| project and class | its keys | folded | lost | its own `remove_weight_norm()` | lines that load the folded file |
| --- | --- | ---: | ---: | --- | --- |
"""


def line(row: Row, tried: Tried) -> str:
    """Return the row of the table."""
    code = "<br>".join(f"`{each}`" for each in row.lines)
    title = row.title.replace("*", "\\*")
    names = ", ".join(f"`{each}`" for each in tried.names).replace("`original1`", "`1`")
    lost = "0, but normalized again" if tried.again else str(tried.lost)
    cells = (title, names, str(tried.folded), lost, tried.removal, code)
    return f"| {' | '.join(cells)} |"
