"""Measure a deployment as its users will, and size it before paying for GPUs.

``python -m loadtest run`` sends requests and reports, ``compare`` sets two reports side by side, ``simulate``
predicts. Nothing here imports the service: the load test is a client like any other.
"""
