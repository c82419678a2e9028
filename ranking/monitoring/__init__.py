"""Monitoring of a ranker in service: differences of served features from training features, drift, and served metrics."""
