"""Signal processing on tensors: framing, filters, spectra, resampling. It knows no stages."""
