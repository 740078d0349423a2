"""Grafana dashboards, Prometheus rules and scraping for the service.

Dashboards are built here in Python and committed as JSON (``python -m dashboards build``); rules, Prometheus'
configuration and the monitors are YAML. `README.md` beside this file tells how to install and read them.
"""
