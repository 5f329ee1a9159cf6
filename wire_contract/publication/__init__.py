"""How a model version travels: manifest, chunks, deltas, and what stays retained on the broker."""
