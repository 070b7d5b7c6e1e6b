"""Augmentation of one image, of one batch, and of two images mixed. Import it through data_transform.py."""
