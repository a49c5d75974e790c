"""ONNX model files: read behind a guard, described, written whole or not at all, counted."""
