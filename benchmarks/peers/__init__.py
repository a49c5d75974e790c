"""This project beside the tools people use today, measured in one run."""
