"""Child processes: started or forked from a preloaded server, monitored, and stopped."""
