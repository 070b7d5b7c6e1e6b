"""On what is trained: data sets by name, their splits, and how batches reach the device."""

from image_datasets.dataset import Dataset
from image_datasets.registry import check_dataset, check_name, describe, list_datasets, load_dataset

__all__ = ["Dataset", "check_dataset", "check_name", "describe", "list_datasets", "load_dataset"]
