"""Comparisons: many arms, seeds and time origins on one log, resumable, in one table."""
