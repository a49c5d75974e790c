"""Calibration: histograms of activations in, ranges and quantization parameters out."""
