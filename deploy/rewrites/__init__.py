"""Exact graph rewrites: one transformation a module, each a function from a model to a model."""
