"""Where torch lives. Whoever imports anything from here passes by this file before torch is imported."""

from service import allocator, threads

threads.prepare()
allocator.prepare()
