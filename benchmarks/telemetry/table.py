"""The telemetry benchmark's figures as text."""

from collections.abc import Mapping
from typing import Any


def table(figures: Mapping[str, Any]) -> str:
    """The figures as text."""
    f = figures
    single, condensed = f["cpu_microseconds_per_single_update"], f["cpu_microseconds_per_condensed_update"]
    stored = "unknown" if f["points_stored"] is None else f"{f['points_stored']:,}"
    return "\n".join(
        [
            f"server: {f['server']}; link: {f['link']}; updates of {f['update_bytes']:.0f} bytes",
            f"telemetry off       {f['rate_off']:10,.0f} updates/s   {f['cpu_microseconds_off']:8.0f} µs CPU each",
            f"telemetry on        {f['rate_on']:10,.0f} updates/s   {f['cpu_microseconds_on']:8.0f} µs CPU each",
            f"  on / off          {f['rate_ratio_on']:10.3f}   (goal 0.97; median of {f['pairs']} pairs)",
            f"  off / on, CPU     {f['cpu_ratio_on']:10.3f}   (unaffected by other programs on the machine)",
            f"telemetry alone     {condensed:10.1f} µs CPU per update in full batches; {single:.1f} in batches of one",
            f"server there        {f['rate_up']:10,.0f} updates/s",
            f"server stopped      {f['rate_down']:10,.0f} updates/s   for {f['down_seconds']:g} s",
            f"  stopped / there   {f['rate_ratio_down']:10.3f}   (goal 0.97)",
            f"  there / st., CPU  {f['cpu_ratio_down']:10.3f}",
            f"points              {f['points_recorded']:,} recorded, {f['points_sent']:,} sent, {stored} stored",
            f"  queue was full    {f['points_dropped_queue']:10,} dropped",
            f"  spool was full    {f['points_dropped_spool']:10,} dropped",
            f"  server refused    {f['points_dropped_server']:10,} dropped",
            f"series              {f['series']:10,}   with {f['devices']:,} devices (goal < 1,000)",
        ]
    )
