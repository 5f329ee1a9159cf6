"""The error of an export, in a module that imports nothing."""


class ExportError(Exception):
    """The model cannot be exported; the message is one line."""
