"""How updates become a version: weights (`staleness`), clipping (`peers`), the buffer, and the merging rules."""
