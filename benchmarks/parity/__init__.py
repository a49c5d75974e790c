"""A candidate beside a reference on the same images: interval, verdict, rows."""
