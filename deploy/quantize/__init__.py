"""Int8: which activations, what ranges, and the graph that carries them."""
