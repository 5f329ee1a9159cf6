"""Federation in virtual time, with the real admission and merging code."""
