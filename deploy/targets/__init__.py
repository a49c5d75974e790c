"""Devices: what each wants of an int8 model."""
