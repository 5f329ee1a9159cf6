"""`check-task`: one batch through everything that a federation does with a task, in the order of `steps.STEPS`."""
