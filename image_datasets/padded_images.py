"""Small images in the memory of the device, and batches of them, augmented there."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from data_transform import (
    CROP,
    CROP_RATIO,
    CROP_SCALE,
    Augment,
    Fit,
    inside,
    policy_batch,
    random_boxes,
    resize,
    resize_boxes,
    send,
)
from utils import sides


class PaddedImages:
    """Equally sized uint8 images on the device, from which crops and mirror images are gathered in one operation.

    Every image is stored with `padding` zeros around it, followed by its mirror image. So a row of a crop is a run of
    bytes at a computed address, and a batch of crops is one `index_select` over such runs.

    Args:
        images: uint8 (N, H, W, C), H = W.
        padding: pixels on each side.
    """

    def __init__(self, images: torch.Tensor, padding: int, device: torch.device):
        self.count, self.side, _, self.chans = images.shape
        self.padding = padding
        self.padded = self.side + 2 * padding
        store = torch.zeros(self.count, 2, self.padded, self.padded, self.chans, dtype=torch.uint8, device=device)
        inside = slice(padding, padding + self.side)
        store[:, 0, inside, inside] = images.to(device)
        store[:, 1] = store[:, 0].flip(2)
        self.row = self.side * self.chans
        flat = store.view(-1)
        self.runs = flat.as_strided((flat.numel() - self.row + 1, self.row), (1, 1))
        self.lines = torch.arange(self.side, device=device) * self.padded * self.chans

    @staticmethod
    def nbytes(shape: Sequence[int], padding: int) -> int:
        """Bytes that images of this shape (N, H, W, C) take when they are stored with `padding`."""
        count, height, width, chans = shape
        return 2 * count * (height + 2 * padding) * (width + 2 * padding) * chans

    def __call__(
        self, index: torch.Tensor, top: torch.Tensor, left: torch.Tensor, mirror: torch.Tensor
    ) -> torch.Tensor:
        """Gathers crops of the original size, uint8 (n, C, H, W) in channels-last memory.

        Args:
            index, top, left, mirror: int64 (n,) on the device: the image, the corner of the crop in the padded image, 1
                to mirror.
        """
        corners = (((index * 2 + mirror) * self.padded + top) * self.padded + left) * self.chans
        crops = self.runs.index_select(0, (corners[:, None] + self.lines).flatten())
        return crops.view(-1, self.side, self.side, self.chans).permute(0, 3, 1, 2)


def augment_batch(
    images: PaddedImages, index: torch.Tensor, augment: Augment, img_size: int | Sequence[int], fit: Fit = CROP
) -> torch.Tensor:
    """Crops and flips the images at `index`, applies the policy, and resizes them.

    Args:
        index: int64 (n,), on the device.
        img_size: side of the result in pixels, or (height, width).

    Returns uint8 (n, C, *img_size).
    """
    n, device = len(index), index.device
    mirror = torch.randint(2, (n,)) if augment.flip else torch.zeros(n, dtype=torch.int64)
    if augment.crop == "pad":
        top, left = torch.randint(2 * images.padding + 1, (2, n))
    else:
        top = left = torch.full((n,), images.padding)
    batch = images(index, *send(torch.stack([top, left, mirror]), device))
    if augment.crop == "resized":
        height, width = sides(img_size)
        aspect = width / height if fit.mode == "crop" else 1.0
        ratio = tuple(aspect * value for value in CROP_RATIO)
        boxes = random_boxes(n, images.side, images.side, CROP_SCALE, ratio, fallback="whole")
        if aspect != 1:  # if no try fits, the largest crop of the model's shape
            largest = torch.tensor(inside(height, width, (images.side, images.side)))
            none_fits = (boxes[:, 2:] == images.side).all(1)
            boxes[none_fits] = torch.cat([(images.side - largest) // 2, largest])
        batch = resize_boxes(batch, boxes, min(height, width) if fit.mode == "letterbox" else img_size)
    if augment.policy != "none":
        batch = policy_batch(batch, augment)
    return resize(batch, img_size, fit)
