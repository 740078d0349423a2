"""Serverless Stable Diffusion: a drop-in for the AUTOMATIC1111 HTTP API."""

__version__ = "0.2.0"
