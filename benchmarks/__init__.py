"""Proof: accuracy, parity, cost, latency, and the report that shows them."""
