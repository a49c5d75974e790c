"""What it takes to make a model of any exporter one of ours; ``deploy.stages.adopt`` does it."""
