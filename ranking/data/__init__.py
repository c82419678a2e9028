"""Point-in-time datasets: labelled rows in, arrays and batches for a ranker out."""
