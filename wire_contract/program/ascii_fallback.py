"""Output on terminals that lack a character: it is replaced by ASCII, so that printing never fails."""

import codecs
import io
import sys

_ASCII = {
    "…": "...",
    "\N{EN DASH}": "-",
    "—": "-",
    "\N{MINUS SIGN}": "-",
    "→": "->",
    "←": "<-",
    "▶": ">",
    "\N{MULTIPLICATION SIGN}": "x",
    "·": "*",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "η": "eta",
    "Σ": "sum",
    "Δ": "delta",
    "β": "beta",
    "ε": "epsilon",
    "²": "^2",
    "‖": "|",
    "“": '"',
    "”": '"',
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{NO-BREAK SPACE}": " ",
}
"""Every character that our help texts and messages use outside ASCII."""
_HANDLER = "fedkd-ascii"


def replace_unencodable_characters() -> None:
    """From now on, standard output and error write ASCII for a character that their encoding lacks."""
    codecs.register_error(_HANDLER, _replacement)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _replacement(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_ASCII.get(character, "?") for character in lacking), error.end
