"""Move the affine maps of normalized activations into the weights beside them."""

from __future__ import annotations

from collections.abc import Iterable

from torch.fx import GraphModule

from wnconvert.fusing.fusing import Fusing
from wnconvert.fusion import FUSIONS
from wnconvert.passes.base import ReportingPass
from wnconvert.report import Converted, Report
from wnconvert.selection import Selection


class FusePass(ReportingPass):
    """Let a layer do what a normalization beside it does in evaluation: batch norms, gains, LayerScale, constants.

    The result is as near to the exact one as the model was, but has not its bits: weights are computed in float64 and
    rounded once. Only plain weights take in anything, so run `FoldPass` first. What holds for one batch alone, in
    training mode, is left alone, and so is what would change anything else that reads a value or a weight; the report
    has the reasons. The graph module is changed in place.

    Args:
        fusions: names of the fusions; all by default.
        selection: which normalizations, by their dotted names.
        untie: let a weight that is tied to others have a value of its own where it takes in a gain.

    Attributes:
        report: what the last call did.

    Raises:
        UnknownNameError: there is no such fusion.
    """

    def __init__(
        self, fusions: Iterable[str] | None = None, *, selection: Selection | None = None, untie: bool = False
    ) -> None:
        super().__init__(selection)
        self.fusions = tuple(FUSIONS if fusions is None else fusions)
        for name in self.fusions:
            FUSIONS.get(name)
        self.untie = untie

    def _run(self, graph_module: GraphModule) -> Report:
        run = Fusing(graph_module, self.fusions, self.selection, self.untie)
        run.run()
        return Report(skipped=tuple(run.skipped), fused=tuple(run.fused))

    def _promised(self, entry: Converted) -> Iterable[str]:
        return ()
