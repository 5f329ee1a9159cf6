"""How updates become a version: weights by staleness and samples, and the rule that merges."""
