"""Text from others, made safe to print.

A device may put any character into what it sends. On a terminal, control characters move the cursor, change the title
or hide what was printed before; a line break fakes a line of the log; a direction mark turns text around. So whatever
may hold somebody else's text is printed through `printable`.
"""

from datetime import UTC, datetime

_FORMULA = ("=", "+", "-", "@")
"""What a spreadsheet takes for the beginning of a formula."""


def printable(text: str) -> str:
    r"""`text` in one line; each character that is not printable becomes its escape, as in `\x1b` or `\u202e`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def utc_time(unix_seconds: float) -> str:
    """The moment as ISO 8601 in UTC, to the second; where somebody stated one outside the calendar, that."""
    try:
        return datetime.fromtimestamp(unix_seconds, tz=UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return "a time that cannot be"


def csv_cell(text: str) -> str:
    """`text` for one cell of a CSV file; a leading apostrophe keeps a spreadsheet from running it as a formula.

    Source: OWASP, "CSV Injection".
    """
    safe = printable(text)
    return f"'{safe}" if safe.lstrip().startswith(_FORMULA) else safe
