"""Packages for NVIDIA Triton: a model repository."""
