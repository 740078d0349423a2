"""Where torch lives. Whoever imports anything from here passes by this file before torch is imported."""

from service import threads

threads.prepare()
