"""Returns freed memory to the system."""

import ctypes
import os


def return_freed_memory() -> None:
    """Asks glibc to return the freed memory of its heap; with another C library, does nothing.

    Reading a data set takes several times its size for a moment. Of that memory, glibc keeps whatever lies below the
    last block in use, for as long as the program runs.
    """
    if os.name == "posix":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
        if trim is not None:
            trim(ctypes.c_size_t(0))
