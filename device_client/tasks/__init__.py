"""The built-in tasks, one module each, and how a task is found by name."""
