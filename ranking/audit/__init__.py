"""The leakage audit: a sample of a training frame recomputed from the log alone, and the windows of all artefacts."""
