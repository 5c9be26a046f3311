"""What a command has to show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wnconvert.report import Report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wnconvert.checkpoint import LoadsInto


@dataclass(frozen=True)
class Result:
    """What came of a conversion."""

    source: Path
    output: Path
    format: str
    report: Report
    shapes: dict[str, tuple[int, ...]]
    dry_run: bool
    record: Path | None = None
    loads_into: LoadsInto | None = None

    def to_summary(self) -> dict[str, Any]:
        """Return what is told of it behind all results, where there are several."""
        return {
            "output": str(self.output),
            "missed": len(self.report.missed),
            "loads_into": None if self.loads_into is None else self.loads_into.to_dict(),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data, ready for JSON."""
        return {
            "output": None if self.dry_run else str(self.output),
            "record": None if self.dry_run or self.record is None else str(self.record),
            "format": self.format,
            "exact": self.report.exact,
            "verified": 0 if self.dry_run else len(self.report.converted),
            "missed": len(self.report.missed),
            "loads_into": None if self.loads_into is None else self.loads_into.to_dict(),
            **self.report.to_dict(),
        }


#: the same of an input of which nothing is known yet, and nothing was written.
BLANK: Mapping[str, Any] = {
    "output": None,
    "record": None,
    "format": None,
    "device": None,
    "layouts": {},
    "exact": None,
    "verified": 0,
    "missed": 0,
    "loads_into": None,
    "warnings": [],
    **Report().to_dict(),
}
