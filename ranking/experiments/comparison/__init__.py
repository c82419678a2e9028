"""Comparisons: many arms, seeds and time origins on one log, resumable, judged by one table."""
