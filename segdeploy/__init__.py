"""Take segmentation networks to the device without losing accuracy."""

from segdeploy.deploy import __version__ as __version__
