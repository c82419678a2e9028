"""Evaluation of rankers: metrics, point-in-time slices, and an evaluator with intervals that cover."""
