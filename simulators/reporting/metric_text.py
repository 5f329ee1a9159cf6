"""How reports write a metric: its name in a sentence and as a title, and its values.

`operations/watch/metric.js` has the same rules.
"""

import math
import re

from wire_contract.main_metric import MainMetric

ACRONYMS = {
    acronym.lower(): acronym
    for acronym in (
        *("AUC", "AUPRC", "AUROC", "BLEU", "CER", "F1", "IoU", "MAE", "MAPE"),
        *("MSE", "NLL", "R2", "RMSE", "SMAPE", "WER"),
    )
}


def words(main: MainMetric) -> str:
    """The name in a sentence: macro_f1 is macro F1, mae is MAE."""
    spaced = main.name.replace("_", " ")
    return re.sub("[A-Za-z0-9]+", lambda word: ACRONYMS.get(word[0].lower(), word[0]), spaced)


def title(main: MainMetric) -> str:
    """The name as a title."""
    name = words(main)
    return name[:1].upper() + name[1:]


def value_text(value: float, *, as_share: bool) -> str:
    """A value: a share in percent, any other number with three significant digits."""
    if as_share:
        return f"{value:.1%}"
    size = abs(value)
    if not math.isfinite(size):
        return str(value)
    if size and not 1e-3 <= size < 1e6:  # noqa: PLR2004 - where digits in front or zeros behind the point get many
        digits, exponent = f"{value:.2e}".split("e")
        return f"{digits}e{int(exponent)}"
    decimals = 0 if size >= 1_000 else max(0, 2 - math.floor(math.log10(size or 1)))  # noqa: PLR2004 - three digits
    return f"{value:,.{decimals}f}"
