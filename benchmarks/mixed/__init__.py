"""The fewest layers in float that keep a budget."""
