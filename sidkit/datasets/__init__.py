"""What writes the contract: synthetic worlds and sampled negatives."""
