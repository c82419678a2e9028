"""Training of rankers: arms, early stopping, checkpoints, and ranker artefacts."""
