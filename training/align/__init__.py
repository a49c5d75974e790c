"""Two implementations held beside each other, layer by layer and step by step."""
