"""Packages for Vastai VACC: build files, VDSP parameters, images."""
