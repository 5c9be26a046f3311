"""Where a converted checkpoint goes, and in which container."""

from __future__ import annotations

from pathlib import Path

from wnconvert import checkpoint
from wnconvert.checkpoint import sidecar
from wnconvert.checkpoint.foreign import NAMES
from wnconvert.checkpoint.format import FORMATS, Checkpoint, Format
from wnconvert.checkpoint.storage import paths
from wnconvert.errors import OptionError
from wnconvert_cli.groups import Writing
from wnconvert_cli.streams import STREAM

#: how the names of index files end.
INDEXES = (".safetensors.index.json", ".bin.index.json", ".index.json")


class Destination:
    """The container of the output, and the places that it may have.

    Args:
        source: the input.
        container: its container.
        writing: what the user asked for.
        as_state_dict: whether the tensors alone are read, of whatever holds them.

    Raises:
        UnknownNameError: there is no such container.
        OptionError: it is read, but not written; or the output is named like one that is.
    """

    def __init__(self, source: Path, container: Format, writing: Writing, *, as_state_dict: bool = False) -> None:
        self.source, self.container, self.writing = paths.named(source), container, writing
        self.as_state_dict = as_state_dict
        self.target = FORMATS.get(writing.format) if writing.format else self._meant(writing.output)
        if self.target.not_written and not self.is_program:
            raise OptionError(f"{self.target.title} is read, but not written: {self.target.not_written}")

    @property
    def is_program(self) -> bool:
        """Whether a program is read, to be written as one."""
        return self.target.programs and type(self.container) is self.target and not self.as_state_dict

    @property
    def is_flattened(self) -> bool:
        """Whether the output is of another container than the input, and holds one state dict alone."""
        return self.target.flat and type(self.container) is not self.target

    def beside(self, suffix: str) -> Path:
        """Return ``model.weight_norm.pt`` for ``model.pt``; a name without an extension gets the suffix at its end."""
        name, own = self.source.name, self.source.suffix
        own = own if own[1:2].isalpha() and not self.source.is_dir() else ""
        own = next((index for index in INDEXES if name.endswith(index)), own)
        if not name:
            raise OptionError(f"there is no place beside the input {str(self.source)!r}; give one with -o")
        beside = self.source.with_name(f"{name.removesuffix(own)}.{suffix}{self._extension(own)}")
        return (self.writing.output_dir or beside.parent) / beside.name

    def check(self, output: Path) -> None:
        """Check that the output may be written, and is not named like another container than ``--format`` says.

        Raises:
            OptionError: it is named like another one or like a file of other software, or is standard output, which
                takes no folder.
            OutputError: it may not be written.
        """
        own, named_like = self.target, _named_like(output)
        if output == STREAM and own.folder:
            raise OptionError(f"{own.title} is a folder, which cannot go to standard output; give -o, or --format")
        if output == STREAM:
            return
        if named_like and own not in named_like:
            raise OptionError(f"output {str(output)!r} is named like {named_like[0].title}, but it will be {own.title}")
        if not named_like and (foreign := NAMES.get(output.suffix.lower())):
            raise OptionError(f"output {str(output)!r} is named like {foreign}, but it will be {own.title}")
        if not self.writing.dry_run:
            checkpoint.check_output(output, self.source, force=self.writing.force, folder=own.folder)

    def record(self, output: Path, written: Checkpoint) -> Path | None:
        """Return where the metadata of what is written go, if the container has no place for them."""
        return sidecar.place(output) if self._has_record(written) and output != STREAM else None

    def notes(self, output: Path, written: Checkpoint) -> tuple[str, ...]:
        """Return what the user should know of what does not go with the output."""
        if output != STREAM or not self._has_record(written):
            return ()
        return (f"{self.target.title} has no place for the record of what was done, and a stream none beside it",)

    def _has_record(self, written: Checkpoint) -> bool:
        return sidecar.is_used_by(self.target) and bool(written.metadata)

    def _meant(self, output: Path | None) -> type[Format]:
        """Return the container that the name of the output means: that of the input, if its files are named so.

        Raises:
            OptionError: it means one that is read, but not written.
        """
        own, named_like = type(self.container), _named_like(output) if output else []
        if not named_like or own in named_like:
            return own
        written = [each for each in named_like if not each.not_written]
        if not written:
            first = named_like[0]
            what = f"{first.title}, which is read, but not written"
            raise OptionError(f"output {str(output)!r} is named like {what}: {first.not_written}")
        return max(written, key=lambda each: each.annotated)

    def _extension(self, own: str) -> str:
        """Return the extension of the output, by that of the input."""
        if self.target.folder:
            return ""
        if type(self.container) is self.target or self.source.suffix in self.target.suffixes:
            return own
        return next(iter(self.target.suffixes), "")


def _named_like(output: Path) -> list[type[Format]]:
    """Return the containers whose files are named like that."""
    return [FORMATS.get(name) for name in FORMATS if output.suffix.lower() in FORMATS.get(name).suffixes]
