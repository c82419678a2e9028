"""The leakage audit: a sample of a training frame told once more from the log alone, and the windows of all artefacts."""
