"""Image files in, masks and what is made of them out: any number of images, in bounded memory."""
