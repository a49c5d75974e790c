"""From a trained segmentation checkpoint to artefacts that run on a device."""

__version__ = "0.1.0"
