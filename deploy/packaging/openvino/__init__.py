"""Packages for OpenVINO: IR with the input contract inside."""
