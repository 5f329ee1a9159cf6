"""The command `health`, for health checks of containers and supervisors."""

import time
from pathlib import Path

from pydantic import Field

from wire_contract.program.command_settings import CommandSettings, UsageError
from wire_contract.program.health import AGE_SECONDS_MAX, check

HEALTH_FILE_HELP = "file in which the program says every 5 s that it works, for `health`; best on a tmpfs"


class HealthSettings(CommandSettings):
    """Says whether a running program of this machine works; exit code 2 if it does not."""

    health_file: Path | None = Field(None, description="the --health-file of that program")
    live: bool = Field(
        False, description="ask only whether its main loop moves; else also whether it can do its work, broker included"
    )
    age_seconds_max: float = Field(
        AGE_SECONDS_MAX, gt=0, description="how long ago its main loop may have moved, seconds"
    )


def show_health(settings: HealthSettings, *, usual: Path | None = None) -> None:
    """Prints one line about a running program.

    Args:
        settings: of the command.
        usual: default path of the health file; None: the settings must give it.

    Raises:
        UsageError: the path of the health file is not given.
        NotHealthy: the program does not work; the text says why.
    """
    path = settings.health_file or usual
    if path is None:
        raise UsageError("--health-file is missing: the one that the program was started with")
    now = time.monotonic()
    beat = check(path, now=now, age_seconds_max=settings.age_seconds_max, ready=not settings.live)
    works = f"responds, but: {beat.trouble}" if beat.trouble else "works"
    print(f"{beat.program} (process {beat.pid}) {works}; its last heartbeat was {now - beat.at:.0f} s ago")
