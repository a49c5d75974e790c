"""Packages for anything that runs ONNX."""
