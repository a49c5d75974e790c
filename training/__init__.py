"""Training of R2U-Net and UNet++ on a prepared image set."""
