"""Makes untrusted text safe to print.

A device may put any character into its messages. On a terminal, control characters move the cursor, change the title or
hide earlier output; a line break forges a log line; a direction mark reverses text. So everything that may contain
untrusted text is printed through `printable`.
"""

from datetime import UTC, datetime

_FORMULA = ("=", "+", "-", "@")
"""What a spreadsheet interprets as the beginning of a formula."""


def printable(text: str) -> str:
    r"""`text` as one line; each character that is not printable is escaped, as in `\x1b` or `\u202e`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def utc_time(unix_seconds: float) -> str:
    """The time as ISO 8601 in UTC, to the second; a fixed text if it is outside the calendar."""
    try:
        return datetime.fromtimestamp(unix_seconds, tz=UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return "a time that cannot be"


def csv_cell(text: str) -> str:
    """`text` as a cell of a CSV file; a leading apostrophe prevents a spreadsheet from evaluating it as a formula.

    Source: OWASP, "CSV Injection".
    """
    safe = printable(text)
    return f"'{safe}" if safe.lstrip().startswith(_FORMULA) else safe
