"""Shared foundations: settings, errors, files, time, artefacts, and the repository folder with its lock."""
