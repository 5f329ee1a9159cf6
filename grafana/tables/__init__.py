"""The dashboards, one table each."""

from grafana.panels import Dashboard
from grafana.tables.aggregator import AGGREGATOR
from grafana.tables.fleet import FLEET
from grafana.tables.learning import LEARNING
from grafana.tables.overview import OVERVIEW

DASHBOARDS: tuple[Dashboard, ...] = (OVERVIEW, FLEET, AGGREGATOR, LEARNING)
