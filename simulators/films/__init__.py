"""Synthetic mammograms as DICOM files, for tests and demonstrations: drawn by a program, they show nobody."""
