"""What the files of a training are called. Imports nothing heavy."""

from __future__ import annotations

from segdeploy.training.history import CURVES_FILE, HISTORY_FILE

BEST_FILE = "best.safetensors"
LAST_FILE = "last.safetensors"
STATE_FILE = "state.pt"
RANGES_FILE = "start.calib.json"
"""Ranges of the network that a quantized training starts from."""

FILES = (BEST_FILE, LAST_FILE, HISTORY_FILE, CURVES_FILE, STATE_FILE)
