"""Augmentation: of one image (in loader processes), of one batch (on the device), and of two images mixed.

All randomness comes from torch's global CPU generator, which the callers seed for each image or batch from
(seed, epoch, position). A draw therefore never depends on the draws before it, nor on the device.
"""

from __future__ import annotations

import functools
import math
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from utils import sides

GROUP = 8  # images that are mixed at once on a CPU
IN_CACHE = 200_000  # values that are normalised at once on a CPU
CROP_SCALE, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # area and aspect ratio of random resized crops, arXiv:1409.4842
EVAL_CROP = 0.875  # share of the short side that the evaluation crop keeps: 256 -> 224 px


@dataclass(frozen=True)
class Augment:
    """How training images are changed.

    Attributes:
        crop: "pad" (random crop after padding with zeros), "resized" (random area and aspect ratio, resized; Szegedy
            et al., arXiv:1409.4842), or "none".
        padding: pixels on every side, for crop="pad".
        flip: mirror left-right with probability 1/2.
        rand: RandAugment (Cubuk et al., arXiv:1909.13719), two operations of magnitude 9.
        erasing: probability of erasing a rectangle (Zhong et al., arXiv:1708.04896).
    """

    crop: str = "none"
    padding: int = 0
    flip: bool = False
    rand: bool = False
    erasing: float = 0.0


@dataclass(frozen=True)
class Fit:
    """How an image of any shape becomes one of the model's.

    Attributes:
        mode: "crop" (keeps the aspect ratio, and loses what lies outside), "squeeze" (all of the image, in another
            aspect ratio), or "letterbox" (all of the image in its own aspect ratio, with a margin).
        fill: of the margin, from 0 to 255 per channel.
    """

    mode: str = "crop"
    fill: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, mode: str, mean: Sequence[float]) -> Fit:
        """With a margin in the mean colour, which is 0 when it is normalised."""
        return cls(mode, tuple(round(255 * value) for value in mean))


CROP = Fit()


# ---------------------------------------------------------------------------------------------------------- one image


def image_transform(
    augment: Augment | None, img_size: int | Sequence[int], eval_crop: float = EVAL_CROP, fit: Fit = CROP
):
    """PIL image, or uint8 tensor (C, H, W), quickest in channels-last memory -> uint8 tensor (C, *img_size).

    A tensor gives what the PIL image of the same pixels gives, but for a level where resizing rounds the other way; so
    does what is sliced like a tensor and has its `shape`, of which only the crop is read. With `augment` None it is the
    evaluation's, in which nothing is random. Where no crop is random the centre is cut out, `eval_crop` of the short
    side of the resized image.
    """
    from torchvision.transforms import v2

    steps: list = []
    if augment is not None and augment.crop == "resized":
        steps.append(RandomResizedCrop(img_size, augment.flip, fit))
    elif augment is not None and augment.crop == "pad":
        steps += [*_fitting(img_size, 1.0, fit), v2.RandomCrop(sides(img_size), augment.padding)]
    else:
        steps += _fitting(img_size, eval_crop, fit)
    if augment is not None and augment.flip and augment.crop != "resized":
        steps.append(_random_flip)
    if augment is not None and augment.rand:
        steps += [_to_pil, v2.RandAugment()]  # its geometric operations take three times as long on tensors
    return functools.partial(_apply, steps)


def _apply(steps: list, image) -> torch.Tensor:
    if hasattr(image, "shape") and not isinstance(steps[0], RandomResizedCrop):
        image = image[:, :, :]  # all of one that is read when it is sliced
    for step in steps:
        image = step(image)
    return image if isinstance(image, torch.Tensor) else torch.from_numpy(np.atleast_3d(image).copy()).permute(2, 0, 1)


def _fitting(img_size: int | Sequence[int], eval_crop: float, fit: Fit) -> list:
    """The steps that bring an image to its size without chance."""
    from torchvision.transforms import v2

    height, width = sides(img_size)
    if fit.mode == "squeeze":
        return [v2.Resize([height, width])]
    if fit.mode == "letterbox":
        return [functools.partial(_letterbox, size=(height, width), fill=fit.fill)]
    if height == width:
        return [v2.Resize(round(height / eval_crop)), v2.CenterCrop(height)]
    return [functools.partial(_cover, size=(height, width), eval_crop=eval_crop), v2.CenterCrop([height, width])]


def shown_share(height: int, width: int, img_size: int | Sequence[int], eval_crop: float = EVAL_CROP) -> float:
    """The share of an image's area that the evaluation's centre crop shows."""
    size = sides(img_size)
    scale = max(size[0] / height, size[1] / width) / eval_crop
    return size[0] * size[1] / (height * width * scale**2)


def _cover(image, size: tuple[int, int], eval_crop: float):
    from torchvision.transforms.v2 import functional

    h, w = functional.get_size(image)
    scale = max(size[0] / h, size[1] / w) / eval_crop
    return functional.resize(image, [max(size[0], round(h * scale)), max(size[1], round(w * scale))], antialias=True)


def _letterbox(image, size: tuple[int, int], fill: tuple[int, ...]):
    from torchvision.transforms.v2 import functional

    return _with_margin(functional.resize(image, inside(*functional.get_size(image), size), antialias=True), size, fill)


def inside(height: int, width: int, size: tuple[int, int]) -> list[int]:
    """[height, width] of the largest image of this aspect ratio that `size` holds."""
    scale = min(size[0] / height, size[1] / width)
    return [max(1, min(size[0], round(height * scale))), max(1, min(size[1], round(width * scale)))]


def _with_margin(image, size: tuple[int, int], fill: tuple[int, ...]):
    """A PIL image, or uint8 (..., C, h, w), in the middle of one of `size`."""
    if not isinstance(image, torch.Tensor):
        from PIL import Image

        result = Image.new(image.mode, size[::-1], fill if len(fill) > 1 else fill[0])
        result.paste(image, ((size[1] - image.width) // 2, (size[0] - image.height) // 2))
        return result
    (h, w), (height, width) = image.shape[-2:], size
    top, left = (height - h) // 2, (width - w) // 2
    colour = torch.tensor(fill, dtype=torch.uint8, device=image.device)
    result = colour.expand(*image.shape[:-3], height, width, len(fill)).clone().movedim(-1, -3)
    result[..., top : top + h, left : left + w] = image
    return result


class RandomResizedCrop:
    """torchvision's v2.RandomResizedCrop, and with `flip` its mirror image half the time: the same distributions, and
    on tensors a third of its time. They are mirrored in the pass that cuts out the crop, before it is resized.

    With "squeeze" and "letterbox" the crops have the aspect ratio of the image, up to the same random factor.
    """

    def __init__(self, img_size: int | Sequence[int], flip: bool = False, fit: Fit = CROP):
        self.size, self.flip, self.fit = list(sides(img_size)), flip, fit

    def __call__(self, image):
        pillow = not hasattr(image, "shape")
        height, width = (image.height, image.width) if pillow else image.shape[1:]
        aspect = self.size[1] / self.size[0] if self.fit.mode == "crop" else width / height
        top, left, h, w = random_crop(height, width, aspect)
        if self.fit.mode != "letterbox":
            return self._cut(image, top, left, h, w, self.size)
        cut = self._cut(image, top, left, h, w, inside(h, w, tuple(self.size)))
        return _with_margin(cut, tuple(self.size), self.fit.fill)

    def _cut(self, image, top: int, left: int, h: int, w: int, size: list[int]):
        mirror = self.flip and torch.rand(()).item() < 0.5
        if not hasattr(image, "shape"):
            from torchvision.transforms.v2 import functional

            image = functional.resized_crop(image, top, left, h, w, size, antialias=True)
            return functional.horizontal_flip(image) if mirror else image
        crop = image[:, top : top + h, left : left + w].permute(1, 2, 0)
        # Either lays out the crop anew; else all of `image` would be.
        crop = (crop.flip(1) if mirror else crop.contiguous())[None].permute(0, 3, 1, 2)
        return F.interpolate(crop, size=size, mode="bilinear", antialias=True)[0]


def random_crop(height: int, width: int, aspect: float = 1.0) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop with 8 % to 100 % of an image's area and an aspect ratio from 3/4 to 4/3 of
    `aspect`, distributed as torchvision's; where ten tries do not fit, the largest central crop with such a ratio."""
    (smallest, largest), (least, most) = CROP_SCALE, (aspect * ratio for ratio in CROP_RATIO)
    *tries, vertical, horizontal = torch.rand(22, dtype=torch.float64).tolist()
    for share, slant in zip(tries[::2], tries[1::2], strict=True):
        area = height * width * (smallest + (largest - smallest) * share)
        ratio = least * (most / least) ** slant
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(vertical * (height - h + 1)), int(horizontal * (width - w + 1)), h, w
    w, h = min(width, round(height * most)), min(height, round(width / least))
    return (height - h) // 2, (width - w) // 2, h, w


def _random_flip(image):
    from torchvision.transforms.v2 import functional

    return functional.horizontal_flip(image) if torch.rand(()) < 0.5 else image


def _to_pil(image):
    from PIL import Image

    if not isinstance(image, torch.Tensor):
        return image
    pixels = image.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels)


# ---------------------------------------------------------------------------------------------------------- one batch


class Buffers:
    """Memory for batches on the CPU, which is used again once no tensor refers to it: a batch of 224 px takes longer to
    get from the system, page by page, than to compute."""

    KEPT = 2  # the batch that is being made, and the one before, which the training loop still holds

    def __init__(self, dtype: type[np.generic] = np.float32):
        self.lock, self.dtype = threading.Lock(), np.dtype(dtype)
        self.lent: list[tuple[np.ndarray, weakref.ref]] = []

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """An uninitialised tensor."""
        size = math.prod(shape)
        with self.lock:
            unused = (entry for entry in self.lent if entry[1]() is None)
            free = max(unused, key=lambda entry: entry[0].size, default=None)
            if not free or free[0].size < size:
                # torch's memory begins at a cache line, NumPy's does not: vector instructions then take longer.
                free = torch.empty(size * self.dtype.itemsize, dtype=torch.uint8).numpy().view(self.dtype), None
            memory = free[0]
            array = memory[:size].reshape(shape)  # the tensor, and every view of it, keeps this object alive
            others = [entry for entry in self.lent if entry is not free]
            self.lent = [(memory, weakref.ref(array)), *others][: self.KEPT]
        return torch.from_numpy(array)


_BUFFERS = Buffers()


class Normalize:
    """uint8 images (N, C, H, W) -> float32 with zero mean and unit variance per channel, in channels-last memory.

    Args:
        mean, std: per channel, for pixel values in [0, 1].
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device):
        self.scale = torch.tensor([1 / (255 * s) for s in std], device=device)
        self.shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
        self.width, self.tiled = 0, (self.scale, self.shift)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        n, c, h, w = images.shape
        # One row of pixels at a time: a broadcast over 3 channels alone does not vectorise.
        rows = images.permute(0, 2, 3, 1).reshape(n, h, w * c)
        if w != self.width:
            self.width, self.tiled = w, (self.scale.repeat(w), self.shift.repeat(w))
        scale, shift = self.tiled
        if images.device.type != "cpu":
            return rows.float().mul_(scale).add_(shift).view(n, h, w, c).permute(0, 3, 1, 2)
        result = _BUFFERS.take((n, h, w * c))
        group = max(1, IN_CACHE // (h * w * c))
        for part, out in zip(rows.split(group), result.split(group), strict=True):
            torch.addcmul(shift, out.copy_(part), scale, out=out)
        return result.view(n, h, w, c).permute(0, 3, 1, 2)


def send(drawn: torch.Tensor, device: torch.device) -> torch.Tensor:
    """What was drawn on the CPU, on the device, without waiting for what the device is doing."""
    return drawn.to(device, non_blocking=True)


def random_boxes(
    n: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], fallback: str
) -> torch.Tensor:
    """n random rectangles (top, left, height, width), int64 (n, 4), distributed as torchvision draws them.

    The area is uniform in `scale` (share of the image), the aspect ratio log-uniform in `ratio`; of ten tries the first
    that fits is taken. Where none fits: "whole" gives the whole image, "none" a rectangle of no size.
    """
    tries = 10
    area = height * width * torch.empty(n, tries).uniform_(*scale)
    aspect = torch.empty(n, tries).uniform_(math.log(ratio[0]), math.log(ratio[1])).exp()
    if fallback == "whole":  # RandomResizedCrop: aspect is width / height
        h, w = (area / aspect).sqrt().round().long(), (area * aspect).sqrt().round().long()
        fits = (h > 0) & (w > 0) & (h <= height) & (w <= width)
    else:  # RandomErasing: aspect is height / width, and the rectangle is smaller than the image
        h, w = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
        fits = (h < height) & (w < width)
    first = fits.float().argmax(1, keepdim=True)
    found = fits.any(1)
    empty = (height, width) if fallback == "whole" else (0, 0)
    h = torch.where(found, h.gather(1, first)[:, 0], empty[0])
    w = torch.where(found, w.gather(1, first)[:, 0], empty[1])
    top = (torch.rand(n) * (height - h + 1)).long()
    left = (torch.rand(n) * (width - w + 1)).long()
    return torch.stack([top, left, h, w], 1)


def resize_boxes(images: torch.Tensor, boxes: torch.Tensor, img_size: int | Sequence[int]) -> torch.Tensor:
    """Cuts boxes[i] = (top, left, height, width) out of images[i] (n, C, H, W) and resizes it to img_size, bilinear
    with antialiasing, as two matrix products. uint8 in, uint8 out."""
    height, width = sides(img_size)
    vertical = send(_interpolation(boxes[:, 0], boxes[:, 2], images.shape[2], height), images.device)
    horizontal = send(_interpolation(boxes[:, 1], boxes[:, 3], images.shape[3], width), images.device)
    resized = torch.einsum("noh,nchw,npw->ncop", vertical, images.float(), horizontal)
    return resized.round_().clamp_(0, 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)


def _interpolation(start: torch.Tensor, length: torch.Tensor, size: int, out_size: int) -> torch.Tensor:
    """Weights (n, out_size, size) of the triangle filter that resizes [start, start + length) to out_size pixels."""
    step = (length / out_size)[:, None, None]
    support = step.clamp(min=1.0)  # shrinking averages over all the pixels it covers
    centre = start[:, None, None] + (torch.arange(out_size)[None, :, None] + 0.5) * step
    pixel = torch.arange(size)[None, None, :]
    weight = (1 - (pixel + 0.5 - centre).abs() / support).clamp(min=0)
    inside = (pixel >= start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weight = weight * inside
    return weight / weight.sum(2, keepdim=True)


def resize(images: torch.Tensor, img_size: int | Sequence[int], fit: Fit = CROP) -> torch.Tensor:
    """uint8 (n, C, H, W) -> uint8 (n, C, *img_size), bilinear with antialiasing."""
    (h, w), (height, width) = images.shape[2:], sides(img_size)
    if (h, w) == (height, width):
        return images
    if fit.mode == "squeeze" or h * width == w * height:
        return _resized(images, (height, width))
    if fit.mode == "letterbox":
        return _with_margin(_resized(images, inside(h, w, (height, width))), (height, width), fit.fill)
    scale = max(height / h, width / w)
    images = _resized(images, (max(height, round(h * scale)), max(width, round(w * scale))))
    top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
    return images[:, :, top : top + height, left : left + width]


def _resized(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    if images.device.type == "cpu":
        return F.interpolate(images, size=size, mode="bilinear", antialias=True)
    resized = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)  # elsewhere not for uint8
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def rand_augment_batch(images: torch.Tensor) -> torch.Tensor:
    """torchvision's RandAugment with its own two random operations for each image of a uint8 batch (n, C, H, W).

    The magnitude is fixed, so the images that drew the same operation and sign are one batch for that operation.
    """
    from torchvision.transforms import v2

    policy = v2.RandAugment()
    space = policy._AUGMENTATION_SPACE
    height, width = images.shape[-2:]
    for _ in range(policy.num_ops):
        operation = torch.randint(len(space), (len(images),))
        negative = torch.rand(len(images)) <= 0.5
        result = images.clone()
        for i, (name, (magnitudes, signed)) in enumerate(space.items()):
            table = magnitudes(policy.num_magnitude_bins, height, width)
            magnitude = 0.0 if table is None else float(table[policy.magnitude])
            groups = [(operation == i, magnitude)]
            if signed:
                groups = [((operation == i) & ~negative, magnitude), ((operation == i) & negative, -magnitude)]
            for chosen, value in groups:
                where = send(chosen.nonzero()[:, 0], images.device)
                if len(where):
                    result[where] = policy._apply_image_or_video_transform(
                        images[where], name, value, interpolation=policy.interpolation, fill=policy._fill
                    )
        images = result
    return images


def erase(images: torch.Tensor, probability: float) -> torch.Tensor:
    """Sets a random rectangle (2 % to 33 % of the area) of normalised images (n, C, H, W) to the mean colour, 0."""
    n, _, height, width = images.shape
    top, left, h, w = random_boxes(n, height, width, (0.02, 0.33), (0.3, 3.3), fallback="none").T[:, :, None]
    chosen = (torch.rand(n) < probability)[:, None]
    y, x = torch.arange(height), torch.arange(width)
    in_rows = chosen & (y >= top) & (y < top + h)
    in_cols = (x >= left) & (x < left + w)
    mask = send(in_rows[:, None, :, None] & in_cols[:, None, None, :], images.device)
    return torch.where(mask, 0.0, images)  # masked_fill with a broadcast mask would lose the channels-last memory


# --------------------------------------------------------------------------------------------------- two images mixed


class Mix:
    """CutMix (arXiv:1905.04899) and MixUp (arXiv:1710.09412) of each image with the one before it in the batch, by
    torchvision's draws.

    Args:
        kind: "none", "cutmix", "mixup" or "cutmix+mixup" (one of the two for each batch, with equal chance).
        probability: of mixing a batch at all.

    Called with images (N, C, H, W), which are changed in place, and class indices (N,); returns images and soft targets
    (N, num_classes), or the class indices as they came with kind="none".
    """

    def __init__(self, kind: str, num_classes: int, cutmix_alpha: float, mixup_alpha: float, probability: float):
        self.num_classes = num_classes
        self.probability = probability
        self.mixers = []
        if kind != "none":
            from torchvision.transforms import v2

            if "cutmix" in kind:
                self.mixers.append(v2.CutMix(alpha=float(cutmix_alpha), num_classes=num_classes))
            if "mixup" in kind:
                self.mixers.append(v2.MixUp(alpha=float(mixup_alpha), num_classes=num_classes))

    def __call__(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.mixers:
            return images, targets
        one_hot = F.one_hot(targets, self.num_classes).to(images.dtype)
        if torch.rand(()) >= self.probability:
            return images, one_hot
        mixer = self.mixers[int(torch.randint(len(self.mixers), ()))]
        drawn = mixer.make_params([images])
        if "box" in drawn:
            x1, y1, x2, y2 = drawn["box"]
            _mix_with_previous(images[..., y1:y2, x1:x2], 1.0)
            share = drawn["lam_adjusted"]
        else:
            share = drawn["lam"]
            _mix_with_previous(images, 1 - share)
        return images, one_hot.lerp(one_hot.roll(1, 0), 1 - share)


def _mix_with_previous(images: torch.Tensor, weight: float) -> None:
    """Each image (N, C, H, W) becomes (1 - weight) of itself and weight of the one before it, the first's being the
    last; in place."""
    if images.device.type != "cpu":
        images.lerp_(images.roll(1, 0), weight)  # one kernel; a copy of the batch costs little there
        return
    if images.stride(1) == 1:
        images = images.permute(0, 2, 3, 1).flatten(2)  # channels-last: a row of pixels is one run
    last = images[-1].clone()
    for end in range(len(images), 1, -GROUP):  # in groups: large temporaries cost page faults, and leave the cache
        start = max(1, end - GROUP)
        images[start:end].lerp_(images[start - 1 : end - 1].clone(), weight)
    images[0].lerp_(last, weight)
