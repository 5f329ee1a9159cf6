"""Dashboards and alert rules as tables, and the files that Grafana reads, which are made from them.

Not shipped with the distribution: it makes files of this repository (`python -m grafana`).
"""
