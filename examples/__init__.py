"""The bundled sample of DSB2018 and the trained checkpoints; found with ``importlib.resources``."""
