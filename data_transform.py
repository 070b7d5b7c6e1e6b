"""Augmentation: of one image (in loader processes), of one batch (on the device), and of two images mixed.

All randomness comes from torch's global CPU generator, which callers seed for each image or batch from
(seed, epoch, position). So no draw depends on earlier draws or on the device. The parts are in augmentation/.
"""

from augmentation.buffers import Buffers
from augmentation.mixing import Mix
from augmentation.normalization import Normalize, denormalize
from augmentation.one_batch import erase, random_boxes, resize_boxes, send
from augmentation.one_image import RandomResizedCrop, image_transform, random_crop
from augmentation.options import CROP, CROP_RATIO, CROP_SCALE, EVAL_CROP, Augment, Fit
from augmentation.policies import policy_batch
from augmentation.shape import inside, resize, shown_share

__all__ = [
    "CROP",
    "CROP_RATIO",
    "CROP_SCALE",
    "EVAL_CROP",
    "Augment",
    "Buffers",
    "Fit",
    "Mix",
    "Normalize",
    "RandomResizedCrop",
    "denormalize",
    "erase",
    "image_transform",
    "inside",
    "policy_batch",
    "random_boxes",
    "random_crop",
    "resize",
    "resize_boxes",
    "send",
    "shown_share",
]
