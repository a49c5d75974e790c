"""From a trained segmentation checkpoint to artefacts that run on a device."""

from segdeploy.deploy.system.no_telemetry import refuse_telemetry

__version__ = "0.1.0"

refuse_telemetry()  # before any runtime is imported
