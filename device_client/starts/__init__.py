"""`new-task`: a task that works, for users to replace its data and network by theirs."""
