"""Each verb as a function over values: what ``import segdeploy`` gives, and what commands call."""
