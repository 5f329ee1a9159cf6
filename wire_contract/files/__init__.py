"""Files: locks, permissions, atomic writes, and files that are replaced while a program runs."""
