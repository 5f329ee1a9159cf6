"""Log formats of the aggregator: text lines for people, JSON objects for programs.

2026-11-30T15:34:24.123+01:00 INFO task physiotherapy: version 3, 0 updates wait for the next
{"at": 1796049264.123, "level": "info", "message": "task physiotherapy: version 3, …"}
"""

import json
import logging
from datetime import datetime
from typing import Literal, TextIO

from wire_contract.program.plain_text import printable

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class TextLines(logging.Formatter):
    """Starts with local time and its offset from UTC, ISO 8601."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 — logging's name
        """One line: text from devices and brokers may contain line breaks and control characters."""
        return printable(super().formatMessage(record))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 — logging's name
        _ = datefmt
        return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


class JsonLines(logging.Formatter):
    """`at` is Unix seconds, as in the events of devices; `trace` is present if an exception was logged."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(out: TextIO, *, log_format: LogFormat, level: LogLevel) -> None:
    """Makes every logger of this process write to `out`."""
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler])
