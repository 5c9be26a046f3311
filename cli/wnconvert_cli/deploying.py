"""What `export` does: find the model and its inputs, and write what is deployed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wnconvert.errors import CheckpointError, OptionError, described
from wnconvert_cli import models
from wnconvert_cli.imports import local_imports
from wnconvert_cli.texts import read_fusions

if TYPE_CHECKING:
    from wnconvert.deploying.exporting import Export
    from wnconvert.deploying.inputs import Example


@dataclass(frozen=True)
class Wanted:
    """What to export.

    Attributes:
        source: a factory, or a file.
        model: the factory of the model whose weights are in the file.
        inputs: inputs in words.
        trust: whether the code that the file names may run.
    """

    source: str
    model: str | None = None
    inputs: tuple[str, ...] = ()
    trust: bool = False

    @property
    def file(self) -> Path | None:
        """The file, if it is one."""
        is_factory = ":" in self.source and not Path(self.source).exists()
        return None if is_factory else Path(self.source)


def deploy(wanted: Wanted, output: Path, fuse: str | None, *, strict: bool, force: bool, dry_run: bool) -> Export:
    """Write what is deployed; what the model's code prints goes to stderr."""
    from wnconvert.deploying.exporting import export
    from wnconvert.deploying.target import target_of

    if wanted.file is None and (wanted.model or wanted.trust):
        raise OptionError("--model and --trust go with a file; the model is built by its factory")
    fusions = read_fusions(fuse)
    target_of(output).require()
    with local_imports(), contextlib.redirect_stdout(sys.stderr):
        model = read_model(wanted)
        example = _example(wanted, model)
        return export(
            model, output, example, fusions=fusions, strict=strict, force=force, dry_run=dry_run, source=wanted.file
        )


def read_model(wanted: Wanted) -> Any:
    """Return the model, or the program."""
    file = wanted.file
    if file is None:
        return models.build(wanted.source)
    from wnconvert import checkpoint
    from wnconvert.checkpoint.storage.opened import Opened, require_file

    require_file(file)
    if wanted.model:
        model = models.build(wanted.model)
        checkpoint.load_into(model, file)
        return model
    opened = Opened(file)
    as_what: Literal["program", "module"] = "program" if checkpoint.recognise(opened).programs else "module"
    content = checkpoint.load(opened, trust=wanted.trust, modules=as_what).content
    if not (models.is_model(content) or models.is_program(content)):
        raise CheckpointError(f"{str(file)!r} holds weights alone; name the model that they are for with --model")
    return content


def _example(wanted: Wanted, model: Any) -> Example | None:
    """Return what the model is exported on; a program has its own."""
    from wnconvert.deploying.inputs import Example, example_of, read_input

    if models.is_program(model):
        if wanted.inputs:
            raise OptionError("--input is for models; a program takes what it was exported for")
        return None
    if wanted.inputs:
        return example_of([read_input(text) for text in wanted.inputs], model.eval())
    given = _attribute(model, "example_inputs")
    if given is None:
        raise OptionError("nobody says what the model takes; give --input NAME=DIMS, or the model 'example_inputs'")
    shapes = _attribute(model, "dynamic_shapes")
    if isinstance(given, Mapping):
        return Example((), dict(given), shapes)
    return Example(tuple(given) if isinstance(given, (tuple, list)) else (given,), {}, shapes)


def _attribute(model: Any, name: str) -> Any:
    """Return an attribute of the model, or what it returns."""
    value = getattr(model, name, None)
    try:
        return value() if callable(value) else value
    except Exception as error:
        raise OptionError(f"the model's {name!r} failed: {models.shorten(described(error))}") from error
