"""Packages for Ascend processors: ATC, AIPP and AMCT."""
