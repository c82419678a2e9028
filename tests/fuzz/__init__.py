"""Fuzz harness: thousands of malformed inputs, damaged files and kills, each with an oracle of its own.

``PYTHONPATH=tests python -m fuzz`` tries all kinds; ``--only rows --case 17`` repeats one case. What a case does follows
from the seed, the kind and its index alone.
"""
