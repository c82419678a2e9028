"""Synthetic data sets, and negative sampling for logs of positives."""
