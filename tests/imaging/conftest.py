"""Hypothesis for a machine that does other things as well: no deadline, no complaint about a slow start."""

from hypothesis import HealthCheck, settings

settings.register_profile("imaging", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("imaging")
