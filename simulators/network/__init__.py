"""A broker that is installed by pip alone."""
