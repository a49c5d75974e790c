"""The whole job: the order of the stages, what is reused, and what is reported."""
