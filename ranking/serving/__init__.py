"""Online scoring with features from the online store, converted to the same arrays as in training."""
