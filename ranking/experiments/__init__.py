"""Experiments around the main job: comparisons of arms, the cost of leakage, evaluation of one ranker."""
