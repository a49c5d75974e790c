"""Fuzzing of everything that reads a file: what to run, how inputs are made, and the long form."""
