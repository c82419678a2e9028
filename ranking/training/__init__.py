"""Training: arms, the loop with early stopping, checkpoints, and the ranker as an artefact on disk."""
