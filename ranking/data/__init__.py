"""Point-in-time datasets: turn labelled rows into arrays and batches for a ranker."""
