"""What a model says of held-out examples, and its figures by site.

Intervals are 95 %, over persons, who are drawn with replacement with all their examples (`scores.intervals`).
"""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from device_client.scores.intervals import drawn_scores, with_interval
from device_client.scores.ranking import Tally, auc_of, tally, threshold_at
from simulators.reporting.nouns import Nouns, nouns_of

Floats = npt.NDArray[np.float64]
_ALL = "all"


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredExamples:
    """What a model says of held-out examples. All arrays are (example,)."""

    probabilities: Floats
    """Of the positive side, 0 to 1."""
    positive: npt.NDArray[np.bool_]
    persons: npt.NDArray[np.str_]
    sites: npt.NDArray[np.str_]
    """The hospital, device or scanner of each, for the table; all alike: no table by site."""
    positive_name: str = "positive"
    """In sentences: "lesion"."""
    site_name: str = "site"
    """In sentences: "hospital"."""
    nouns: Nouns = field(default_factory=lambda: nouns_of(""))
    """What examples and persons are called."""
    specificity: float = 0.9
    calibrated: Floats | None = None
    """The same probabilities after temperature scaling; None: not calibrated."""

    def __post_init__(self) -> None:
        arrays = {"positive": self.positive, "persons": self.persons, "sites": self.sites}
        if self.calibrated is not None:
            arrays["calibrated"] = self.calibrated
        wrong = [name for name, each in arrays.items() if each.shape != self.probabilities.shape]
        if wrong or self.probabilities.ndim != 1 or not len(self.probabilities):
            raise ValueError(f"scored examples: {', '.join(wrong) or 'probabilities'} must be (example,), not empty")
        if not (
            np.isfinite(self.probabilities).all() and 0 <= self.probabilities.min() <= self.probabilities.max() <= 1
        ):
            raise ValueError("scored examples: probabilities must be from 0 to 1")

    @property
    def counts(self) -> Tally:
        """Examples by probability."""
        return tally(self.probabilities, self.positive)

    def of_site(self, site: str) -> "ScoredExamples":
        """The examples of one site."""
        chosen = self.sites == site
        return replace(
            self,
            probabilities=self.probabilities[chosen],
            positive=self.positive[chosen],
            persons=self.persons[chosen],
            sites=self.sites[chosen],
            calibrated=None if self.calibrated is None else self.calibrated[chosen],
        )


@dataclass(frozen=True, kw_only=True)
class SiteRow:
    """The figures of one site; NaN where one is not defined, such as an AUC of one class."""

    site: str
    examples: int
    positive: int
    persons: int
    auc: float
    auc_low: float
    auc_high: float
    sensitivity: float
    """At the threshold that all sites share."""
    specificity: float
    balanced_accuracy: float
    """Mean of sensitivity and specificity at probability 0.5."""


def site_rows(scored: ScoredExamples) -> list[SiteRow]:
    """The figures of each site, by name, and where there are several sites, first those of all together.

    Sensitivity and specificity are those at one threshold for all, as it would be used: that with the highest
    sensitivity on all examples at a specificity of at least `scored.specificity`. It is chosen on the same examples.
    """
    threshold = threshold_at(scored.probabilities, scored.positive, scored.specificity)
    names = sorted(set(scored.sites.tolist()))
    rows = [_row(site, scored.of_site(site), threshold) for site in names]
    return rows if len(names) == 1 else [_row(_ALL, scored, threshold), *rows]


def _row(site: str, scored: ScoredExamples, threshold: float) -> SiteRow:
    auc = auc_with_interval(scored)
    sensitivity, specificity = _at(threshold, scored)
    return SiteRow(
        site=site,
        examples=len(scored.positive),
        positive=int(scored.positive.sum()),
        persons=len(set(scored.persons.tolist())),
        auc=auc["mean"],
        auc_low=auc["low"],
        auc_high=auc["high"],
        sensitivity=sensitivity,
        specificity=specificity,
        balanced_accuracy=sum(_at(0.5, scored)) / 2,
    )


def _at(threshold: float, scored: ScoredExamples) -> tuple[float, float]:
    """Sensitivity and specificity of calling everything positive from this probability on."""
    called = scored.probabilities >= threshold
    shares = []
    for which, right in ((scored.positive, called), (~scored.positive, ~called)):
        shares.append(float(right[which].mean()) if which.any() else float("nan"))
    return shares[0], shares[1]


def auc_with_interval(scored: ScoredExamples) -> dict[str, float]:
    """`mean`, `low` and `high` of the AUC."""
    draws = drawn_scores(lambda weights: auc_of(tally(scored.probabilities, scored.positive, weights)), scored.persons)
    return with_interval(float(auc_of(scored.counts)), draws)
