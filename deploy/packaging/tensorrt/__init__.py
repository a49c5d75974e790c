"""Packages for TensorRT: strongly typed ONNX, a calibration cache, command lines."""
