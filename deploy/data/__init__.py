"""Images in: sets, decoding, the input contract, splits, and published layouts."""
