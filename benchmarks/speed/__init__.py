"""Time, memory and throughput, the candidates interleaved in one run."""
