"""Packages: folders that hand a finished model to another toolchain, complete and checked."""
