"""Layers of an int8 model beside the float model it was made from."""
