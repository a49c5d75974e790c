"""Published figures beside those of finished runs, each with its source."""
