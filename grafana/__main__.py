"""Writes Grafana's files and docs/dashboards.md:

python -m grafana            writes all files
python -m grafana --check    writes none; exit code 1 and a line for each file that is out of date
"""  # noqa: D415 - the commands follow

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from grafana.alerts import alerts_markdown, provisioning
from grafana.rendering import dashboard_json, markdown
from grafana.tables import DASHBOARDS

HOUSE = Path(__file__).parents[1]

_MADE = "Made by `make dashboards` from the tables in grafana/; changes here are lost."
_PAGE = f"""<!-- {_MADE} -->
# Dashboards

`make up` starts a Grafana with these dashboards. To use another Grafana, install `grafana/provisioning` as
`/etc/grafana/provisioning` and `grafana/dashboards` as `/etc/grafana/dashboards`, set `GF_INFLUXDB_TOKEN` to a token
with read access, and enter the address of its InfluxDB in `grafana/provisioning/datasources/influxdb.yaml`. At the
top of each page you choose a task and, if there are several, shards and cohorts. All queries are InfluxQL, which
InfluxDB 1, 2 and 3 understand; InfluxDB 2 needs the database mapping that `deployment/influxdb-setup.sh` creates.

- **Presence and broker panels** need the aggregator's second connection. If the broker authenticates clients by
  certificate, that connection needs its own certificate (`--telemetry-certificate`); without it these panels stay
  empty.
- **Numbers of devices** are exact for fleets of any size. Tables that list devices use the newest rows, up to the
  limit that each panel states, so they stay fast with 100,000 devices but do not list all of them.
- **Under load**, the aggregator records some updates of a batch individually and the others as sums
  ([telemetry.md](telemetry.md#updates-under-load)). Counts, bytes, means of sums, and the largest staleness and norm
  stay exact. Tables of updates, 90 % lines, and the largest training time and size then describe a sample.

"""


class _Plain(yaml.SafeDumper):
    """Repeats equal values instead of using YAML aliases."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - for all values
        return True


def files() -> Mapping[Path, str]:
    """The content of each file, by its path in the repository."""
    made = {
        Path("grafana/dashboards") / f"{one.uid.removeprefix('fedkd-')}.json": json.dumps(dashboard_json(one), indent=2)
        for one in DASHBOARDS
    }
    rules = yaml.dump(provisioning(), Dumper=_Plain, sort_keys=False, width=110, allow_unicode=True)
    return {name: text + "\n" for name, text in made.items()} | {
        Path("grafana/provisioning/alerting/rules.yaml"): f"# {_MADE}\n{rules}",
        Path("docs/dashboards.md"): _PAGE + markdown(DASHBOARDS) + "\n" + alerts_markdown(),
    }


def main(arguments: Sequence[str]) -> int:
    """The program; returns its exit code."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale = 0
    for name, text in files().items():
        path = HOUSE / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if arguments:
            print(f"{name} is out of date: run make dashboards", file=sys.stderr)
            stale = 1
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
