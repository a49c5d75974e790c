"""Public architectures, each trained by our own loop and quantized with every tool."""
