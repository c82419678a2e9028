"""Resumable comparisons of arms over several seeds and time origins on one log."""
