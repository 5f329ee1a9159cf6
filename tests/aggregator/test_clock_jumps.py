"""A clock that was a year ahead and is set right: no figure of the aggregator stays in the future."""

from pathlib import Path

import pytest

from aggregator.__main__ import _lines
from aggregator.admission import Merge
from aggregator.ledger.reading import read_totals
from aggregator.status import StatusHistory, Tally
from aggregator.telemetry.collecting import Clocks, Telemetry
from aggregator.telemetry.lines import read_line
from aggregator.telemetry.participation import SILENT_SECONDS, Activity, Participation
from aggregator.telemetry.spool import Spool, read_spool
from tests.aggregator.bench import Bench
from tests.aggregator.synthetic import SyntheticDevice, judged
from tests.aggregator.telemetry.points import update_point

YEAR_SECONDS = 365 * 86_400
NOW = 1_796_000_000.0


@pytest.mark.parametrize("jump_seconds", [-YEAR_SECONDS, YEAR_SECONDS])
def test_points_are_stamped_by_the_clock_as_soon_as_it_is_right(tmp_path: Path, jump_seconds: int) -> None:
    unix_ns = [int(NOW + jump_seconds) * 1_000_000_000]
    spool = Spool(tmp_path / "spool", bytes_max=1 << 20)
    telemetry = Telemetry(
        spool, task="t", shard=0, flush_seconds=0.02, clocks=Clocks(unix_ns=lambda: unix_ns[0], monotonic=lambda: 0.0)
    )
    telemetry.record([update_point(1), update_point(2)])
    unix_ns[0] = int(NOW) * 1_000_000_000
    telemetry.record([update_point(3), update_point(4)])
    telemetry.close()
    lines = [line for line in map(read_line, read_spool(tmp_path / "spool")) if line is not None]
    stamps = {line.fields["version"]: line.at_ns for line in lines if line.measurement == "fedkd_update"}
    wrong, right = int(NOW + jump_seconds) * 1_000_000_000, int(NOW) * 1_000_000_000
    assert stamps == {1: wrong, 2: wrong + 1, 3: right, 4: right + 1}


def test_a_device_that_fell_silent_is_silent_although_it_was_merged_in_the_future() -> None:
    fleet = Participation()
    fleet.contributed(Activity("watch-1", 1.0), NOW + YEAR_SECONDS)
    assert fleet.figures(NOW)["devices_contributing"] == 1, "when it was, nobody knows; from now on time counts"
    assert fleet.figures(NOW + SILENT_SECONDS + 1)["devices_contributing"] == 0
    fleet.contributed(Activity("watch-1", 1.0), NOW + 2 * SILENT_SECONDS)
    assert fleet.figures(NOW + 2 * SILENT_SECONDS)["devices_contributing"] == 1


def test_the_rate_forgets_what_was_merged_in_the_future() -> None:
    tally = Tally(StatusHistory(), now=NOW + YEAR_SECONDS)
    tally.judged([judged("watch-1", Merge(1.0, 0), size_bytes=1)], at=NOW + YEAR_SECONDS)
    tally.judged([judged("watch-1", Merge(1.0, 0), size_bytes=1)], at=NOW)
    summary = tally.summary(now=NOW + 1, bytes_down=0)
    assert summary.updates_per_minute == 1
    assert summary.since <= summary.at
    assert tally.summary(now=NOW + 120, bytes_down=0).updates_per_minute == 0


def test_status_tells_the_newest_change_and_not_the_latest_moment(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "ledger")
    device = SyntheticDevice("watch-1")
    bench.now = NOW + YEAR_SECONDS
    assert isinstance(bench.verdict(device), Merge)
    ahead = read_totals(tmp_path / "ledger")
    assert ahead.updated_at == NOW + YEAR_SECONDS + 1
    assert "in the future" in str(dict(_lines(ahead, now=NOW))["updated"])
    assert "future" not in str(dict(_lines(ahead, now=NOW + YEAR_SECONDS))["updated"])
    bench.now = NOW
    assert isinstance(bench.verdict(device), Merge)
    assert read_totals(tmp_path / "ledger").updated_at == NOW + 1
    bench.next_version()
    assert read_totals(tmp_path / "ledger").updated_at < NOW, "as the test's clock says at a commit"
    bench.ledger.close()
