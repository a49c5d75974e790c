"""Work shared among processes: those of a torchrun, and those of a Ray cluster."""
