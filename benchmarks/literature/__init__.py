"""What the source tables print of the two networks: rows with sources, and what they count."""
