"""The same examples in every run, on machines of any speed."""

from hypothesis import settings

settings.register_profile("laws", derandomize=True, deadline=None)
settings.load_profile("laws")
