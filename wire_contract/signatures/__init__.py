"""Ed25519 signatures of manifests and updates, and the files that hold the keys."""
