"""On what is trained: data sets by name, their splits, and how batches reach the device."""

from image_datasets.registry import Dataset, check_dataset, list_datasets, load_dataset
from image_datasets.splits import Split, split_train

__all__ = ["Dataset", "Split", "check_dataset", "list_datasets", "load_dataset", "split_train"]
