"""Parts of data_transform.py: augmentation of one image, of one batch, and of two images mixed."""
