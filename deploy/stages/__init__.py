"""Stages: each makes one artefact from another."""
