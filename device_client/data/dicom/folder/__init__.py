"""A folder of mammograms: listing, labels, cache, manifest, data set. Nothing it writes or says names a patient."""
