"""Benches that anyone can rerun: ratios within one run, printed as one JSON object on the last line of each."""

from service import threads

threads.prepare()  # for what benches import themselves, and what they start
