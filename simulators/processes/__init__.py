"""Programs as processes: started, forked from a warm server, watched and ended."""
