"""What became of fits: their runs, or why they failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featstore.errors import FeatstoreError, FitError
from featstore.runs.run import Run


@dataclass(frozen=True)
class Fit:
    """What became of one classifier on one selection.

    Parameters
    ----------
    name : str
        Dataset, model, layers and classifier, for people.
    run : Run or None
        The run; None when the fit failed.
    reused : bool
        Whether an earlier fit made the run.
    error : FeatstoreError or None
        Why the fit failed.
    """

    name: str
    run: Run | None = None
    reused: bool = False
    error: FeatstoreError | None = None

    @property
    def line(self) -> str:
        """The result in one line."""
        if self.run is None:
            return f"{self.name}: failed: {self.error}"
        duration_s = self.run.record.duration_s["total"]
        how = "as fitted before" if self.reused else f"{duration_s:.1f} s"
        return f"{self.name}: {self.run.scoring.outcome(self.run.outline.summary)}, {how}"


def raise_failures(fits: Sequence[Fit]) -> None:
    """Raise a FitError that lists the fits that failed, if any did."""
    failed = [fit for fit in fits if fit.error]
    if len(fits) == 1 and failed:
        raise FitError(str(failed[0].error)) from failed[0].error
    if failed:
        kept = "; the runs of the others are kept" if len(failed) < len(fits) else ""
        reasons = "".join(f"\n  {fit.name}: {fit.error}" for fit in failed)
        raise FitError(f"{len(failed)} of {len(fits)} fits failed{kept}.{reasons}")
