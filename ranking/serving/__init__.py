"""Online scores: features from the online store, the same arrays, the same model."""
