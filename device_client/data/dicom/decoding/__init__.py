"""Pixels of a DICOM file → stored values; compressed ones in a child process."""
