"""Many pictures without a server: rows in, files and a manifest out. See docs/batch.md.

``rows``, ``readers``, ``sweep`` and ``plan`` say what is to be made; ``makers`` makes it, here or by a service;
``manifest`` and ``files`` keep it; ``run`` puts them together, and ``command`` is the command line.
"""
