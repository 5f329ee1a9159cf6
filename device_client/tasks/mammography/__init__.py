"""Mammograms: `films` is task mammography, `crops` task mammography-crops."""
