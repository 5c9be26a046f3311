"""What a container is: a way to read one file into a `Checkpoint` and to write one back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from wnconvert.errors import OutputError
from wnconvert.registry import Registry

if TYPE_CHECKING:
    from wnconvert.checkpoint.storage.opened import Opened

#: in the metadata of safetensors, whose tensors they are.
TAG = {"format": "pt"}


@dataclass(frozen=True)
class Checkpoint:
    """Everything that one file holds.

    Attributes:
        content: the object tree: a state dict, a dict that holds state dicts and other things, or a pickled module.
        format: name of the container.
        metadata: texts kept beside the content: safetensors' ``__metadata__``, the record that wnconvert adds to a
            torch zip archive, or a file beside the file, see `wnconvert.checkpoint.sidecar`.
        origin: where it was read from. A container of several files takes from there what is no checkpoint.
        notes: what the user should know of how it was read.
        checks: what raises a `CheckpointError` where a file that was mapped is damaged: it takes reading all of it.
    """

    content: Any
    format: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    origin: Path | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    checks: tuple[Callable[[], None], ...] = field(default=(), compare=False, repr=False)


class Format(ABC):
    """A container. One subclass a file; its instances have no state.

    One that can only be read needs no `write`, and may say why in ``not_written``.
    """

    #: snake_case name, equal to the name of the file.
    name: ClassVar[str]
    #: what people call it, for messages.
    title: ClassVar[str]
    #: suffixes usual for this container. They only guard against misnamed outputs; reading goes by content.
    suffixes: ClassVar[tuple[str, ...]] = ()
    #: whether the container holds tensors by name and nothing else: no nesting, no parameters, no ties.
    flat: ClassVar[bool] = False
    #: whether the container keeps the order of the entries.
    ordered: ClassVar[bool] = True
    #: whether the container can hold metadata; those of others, which are single files, go into a sidecar.
    annotated: ClassVar[bool] = True

    #: whether others who read it ask for `TAG` in the metadata.
    tagged: ClassVar[bool] = False
    #: whether it is written as a folder of several files.
    folder: ClassVar[bool] = False
    #: whether it holds programs, which are read and written as such, whatever `not_written` says of weights.
    programs: ClassVar[bool] = False
    #: why it is read but never written, and the way out; None where it is written.
    not_written: ClassVar[str | None] = None
    #: name of the container of which this one is a special case: what both recognise is of this one.
    refines: ClassVar[str | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """See that one without `write` says so."""
        super().__init_subclass__(**kwargs)
        if cls.write is Format.write and cls.not_written is None:
            cls.not_written = "give another container (--format)"

    @abstractmethod
    def recognises(self, opened: Opened) -> bool:
        """Return whether the content of the file says that it is of this kind; a damaged file may still be."""

    @abstractmethod
    def read(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return what the file holds, on the CPU.

        Args:
            opened: the file.
            trust: run the code that the file names.

        Raises:
            UnsafePickleError: reading would run code, and ``trust`` is not given.
            CheckpointError: the file is damaged.
        """

    def read_inert(self, opened: Opened) -> Checkpoint:
        """Return what the file holds, on the CPU, with the state dicts of pickled modules in their place.

        No code is run, and none is needed; a container that cannot hold modules is just read.

        Raises:
            CheckpointError: the file is damaged, or a module does not show its state dict.
        """
        return self.read(opened)

    def read_program(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return the program that the file holds; of a container without programs, as `read`.

        Args:
            opened: the file.
            trust: run the code that the file names.

        Raises:
            UnsafePickleError: reading would run code, and ``trust`` is not given.
            CheckpointError: the file is damaged.
        """
        return self.read(opened, trust=trust)

    def read_back(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return what a file holds that `write` has just made, as the container's own library reads it.

        A file that this library would refuse is so never kept. Where `read` asks it anyway, that is all.

        Args:
            opened: the file.
            trust: run the code that the file names.

        Raises:
            CheckpointError: the library refuses the file.
        """
        return self.read(opened, trust=trust)

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write ``checkpoint`` into the file, or into the empty folder, at ``path``.

        Raises:
            OutputError: the container cannot hold it, or there is no room; the message is the bare reason.
            OSError: the same, as the operating system says it.
        """
        raise OutputError(f"{self.title} is read, but not written: {self.not_written}")

    def files(self, opened: Opened) -> Collection[Path]:
        """Return the files of a folder that are the checkpoint; all others are somebody's, and must not be lost."""
        return ()

    def adopt(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return a checkpoint of any container as one of this."""
        if checkpoint.format == self.name:
            return checkpoint
        metadata = dict(checkpoint.metadata)
        if self.tagged:
            metadata = {**TAG, **metadata}
        elif not self.annotated:  # a tag is not worth a file of its own
            metadata = {key: text for key, text in metadata.items() if key not in TAG}
        return replace(checkpoint, format=self.name, metadata=metadata)

    def optimizers(self, checkpoint: Checkpoint) -> list[str]:
        """Return the names of files with the state of optimizers that are left out where ``checkpoint`` is written."""
        return []


FORMATS: Registry[type[Format]] = Registry("format", "wnconvert.checkpoint.formats", "wnconvert.formats", Format)


def register(cls: type[Format]) -> type[Format]:
    """File a format under its `Format.name`; a class decorator."""
    return FORMATS.register(cls.name)(cls)


def find_format(opened: Opened, *, single: bool = False) -> Format | None:
    """Return the format that recognises a file, the most special one where several do, or None.

    Args:
        opened: the file or folder.
        single: ask only those that are single files.
    """
    known = [FORMATS.get(name)() for name in FORMATS]
    found = [each for each in known if not (single and each.folder) and each.recognises(opened)]
    refined = {each.refines for each in found}
    return next((each for each in found if each.name not in refined), None)
