"""What every other room stands on: settings, errors, files, moments, artefacts, and the repo's folder and lock."""
