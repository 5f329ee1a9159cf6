"""Hospitals with films of their own, as real programs: what is reported, and that no identifier leaves the folder."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from device_client.tasks.mammography.films import LABELS
from simulators.films.trial import Hospital, make_trial
from tests.device_client.data.extras import extra
from tests.e2e.small_demo import DEMO_SECONDS_MAX

pytestmark = pytest.mark.e2e
HOUSE = Path(__file__).parents[2]
HOSPITALS = (Hospital(name="north", patients=2, tested=2), Hospital(name="south", patients=2, tested=2))
TEACHERS = Hospital(name="screening", patients=2, tested=0)


@pytest.mark.timeout(DEMO_SECONDS_MAX + 60)
def test_a_federation_of_hospitals(tmp_path: Path) -> None:
    extra("pydicom")
    data, out = tmp_path / "data", tmp_path / "out"
    make_trial(data, hospitals=HOSPITALS, teachers=TEACHERS, rows=120)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEDKD_")}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "simulators", "demo", "--task", "mammography", "--data", str(data)),
            *("--out", str(out), "--quick", "--versions", "3", "--no-page", "--plain"),
        ],
        cwd=HOUSE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "north may not upload until it has a compliance approval" in done.stdout
    assert "on unseen patients" in done.stdout
    facts = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert facts["versions"] >= 3
    assert min(facts["updates_by_device"].values()) > 0, "the hospital that was approved late, too"
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "Two hospitals trained one model whose AUC" in report
    assert "Results by hospital" in report
    assert "What the model sees" not in report, "films of patients do not belong into a report"

    with (data / LABELS).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    secret = {value.encode() for row in rows for value in (row["PatientID"], row["SOPInstanceUID"])}
    assert len(secret) == 10 + 40
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) > 10
    for content in [done.stdout.encode(), done.stderr.encode(), *(path.read_bytes() for path in written)]:
        assert not [word for word in secret if word in content]
