"""Runtimes under one contract; each backend is imported only when it is opened."""
