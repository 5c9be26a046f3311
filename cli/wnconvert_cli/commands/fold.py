"""``wnconvert fold``."""

from __future__ import annotations

from wnconvert_cli.answer import Answer
from wnconvert_cli.groups import Opening, Scope, Writing
from wnconvert_cli.options import (
    AdapterToFold,
    Dim,
    Exactness,
    Files,
    Fuse,
    Options,
    Precision,
    Preset,
    Record,
    SchemeToFold,
)
from wnconvert_cli.texts import read_dim, read_fusions, read_scheme


def fold(
    files: Files,
    *,
    scheme: SchemeToFold = None,
    option: Options = None,
    dim: Dim = None,
    preset: Preset = None,
    precision: Exactness = Precision.runtime,
    adapter: AdapterToFold = None,
    fuse: Fuse = None,
    scope: Scope,
    record: Record = True,
    writing: Writing,
    opening: Opening,
    answer: Answer,
) -> None:
    """Compose the parts in a checkpoint into plain weights.

    conv.weight_g and conv.weight_v become conv.weight, with the bits that the
    model itself computes from them; all else stays as it is. The weights of an
    ONNX model are folded by its graph.
    """
    from wnconvert.checkpoint.layout import read_preset
    from wnconvert.checkpoint.storage.opened import require_file
    from wnconvert.errors import OptionError
    from wnconvert_cli import tasks
    from wnconvert_cli.conversion import run

    if option and scheme is None:
        raise OptionError("--option needs --scheme: it is an option of a scheme")
    chosen, kept = read_scheme(scheme, option) if scheme else None, read_dim(dim)
    presets = tuple(map(read_preset, preset or ()))
    live = next((each for each in presets if each.adapter), None)
    if adapter and presets:
        raise OptionError("--adapter and --preset exclude each other: the adapter's config says all")
    if (adapter or live) and (chosen or scope.model or kept != "default" or len(presets) > 1):
        name = f"--preset {live.name}" if live else "--adapter"
        raise OptionError(f"{name} goes with --include, --exclude, --only and --precision alone")
    fusions = read_fusions(fuse)
    if fusions != () and (adapter or live or chosen):
        raise OptionError("--fuse is for whole models and programs; leave out --scheme, --adapter and --preset")
    if fusions != () and not scope.where.is_cpu:
        raise OptionError("--fuse computes in float64, rounded once, on the CPU; leave out --device")
    if adapter:
        require_file(adapter)
    if source := adapter or live:
        task = tasks.fold_adapter(scope, source, precision.value)
    else:
        task = tasks.fold(scope, chosen, kept, presets, precision.value, record, fusions)
    run(task, files, scope, writing, opening, answer)
