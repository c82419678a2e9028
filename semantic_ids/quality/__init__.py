"""Quality of codes without training a ranker: collisions, hit rates, drift, floors, and a sweep of sizes."""
