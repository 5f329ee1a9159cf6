"""The built-in tasks, a module each, and how a task is found by name."""
