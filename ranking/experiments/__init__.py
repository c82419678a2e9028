"""Experiments beyond ``sidkit run``: comparisons of arms, the cost of leakage, evaluation of one ranker."""
