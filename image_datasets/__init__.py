"""Data sets by name, their splits, and how batches reach the device."""

from image_datasets.dataset import Dataset, Wanted
from image_datasets.registry import check_name, dimensions, list_datasets, load_dataset, locate, locate_dataset

__all__ = ["Dataset", "Wanted", "check_name", "dimensions", "list_datasets", "load_dataset", "locate", "locate_dataset"]
