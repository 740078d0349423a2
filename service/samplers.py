"""Names of samplers and schedulers: what exists, under which aliases, and how clients' spellings resolve.

Torch-free, so that a front without torch can list and check them. What they compute is in ``service.engine.samplers``.
"""
