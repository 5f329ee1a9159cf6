"""How a model version is published: manifest, chunks, deltas, and what stays retained on the broker."""
