"""Mammograms as DICOM files, read with pydicom (extra `dicom`)."""
