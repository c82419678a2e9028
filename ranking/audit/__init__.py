"""Leakage audit: recompute a sample of a training frame from the log, and check the fit windows of all artefacts."""
