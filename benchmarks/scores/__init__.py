"""Segmentation scores: one definition for each name."""
