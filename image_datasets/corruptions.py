"""Standard corruptions of whole batches, each at five strengths.

Noise, blur, JPEG, contrast and brightness are those of Hendrycks and Dietterich (arXiv:1903.12261), with the parameters
of CIFAR-10-C for images up to 64 px and of ImageNet-C above. These were made for 32 and 224 px. Blur widths are in
pixels, so they scale with the side of the image, but never below those for 32 px: half a pixel of blur changes nothing.
Noise is per pixel and does not scale. Occlusion and shuffled patches are those of Naseer et al. (arXiv:2105.10497,
sections 3.1 and 3.3).

Each image draws from a CPU generator of its own, seeded by (seed, corruption, strength, image index). So its corruption
depends neither on its batch nor on the device.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from image_datasets.layout import SMALL
from utils import cores, derive_seed, widest_float

STRENGTHS = (1, 2, 3, 4, 5)
TRUNCATE = 4  # standard deviations at which the blur kernel is cut off
DROP_GRIDS = (8, 14)  # patches per side for occlusion, of small and of large images


def corrupt(images: torch.Tensor, indices: Sequence[int], name: str, strength: int, seed: int) -> torch.Tensor:
    """Corrupts images by one of CORRUPTIONS, on their own device.

    Args:
        images: uint8 (N, C, H, W) with C 1 or 3, in any memory format; not changed.
        indices: index of each image in its data set.
        strength: 1 to 5.

    Returns uint8 (N, C, H, W), rounded to whole levels as in an image file.
    """
    corruption = CORRUPTIONS[name]
    generators = [torch.Generator().manual_seed(derive_seed(seed, name, strength, int(i))) for i in indices]
    side = min(images.shape[2:])
    changed = corruption.function(images, parameter(name, strength, side), generators)
    if changed.is_floating_point():
        changed = changed.round_().clamp_(0, 255).to(torch.uint8)
    return changed


def parameter(name: str, strength: int, side: int) -> float | int | tuple[int, int]:
    """Parameter of a corruption at a strength, for images of `side` pixels; see the corruption's function."""
    corruption = CORRUPTIONS[name]
    small, large = corruption.small[strength - 1], corruption.large[strength - 1]
    if not corruption.in_pixels:
        return small if side <= SMALL else large
    return max(small, small * side / 32 if side <= SMALL else large * side / 224)


def _gaussian_noise(images: torch.Tensor, deviation: float, generators: list[torch.Generator]) -> torch.Tensor:
    """Adds normal noise.

    Args:
        deviation: standard deviation, for pixel values in [0, 1].
    """
    noise = _each(lambda generator: torch.randn(images.shape[1:], generator=generator), generators)
    return images + 255 * deviation * noise.to(images.device)


def _shot_noise(images: torch.Tensor, photons: float, generators: list[torch.Generator]) -> torch.Tensor:
    """Adds the Poisson noise of counting photons.

    Args:
        photons: expected number of a white pixel.
    """
    expected = images.cpu() / 255 * photons
    pairs = list(zip(expected, generators, strict=True))
    counted = _each(lambda pair: torch.poisson(pair[0], generator=pair[1]), pairs)
    return counted.to(images.device) * (255 / photons)


def _gaussian_blur(images: torch.Tensor, deviation: float, generators: list[torch.Generator]) -> torch.Tensor:
    """Blurs; the outermost pixels repeat beyond the border.

    Args:
        deviation: standard deviation of the kernel, in pixels.
    """
    images = _exact(images)
    rows, columns = (_blur_matrix(size, deviation).to(images) for size in images.shape[2:])
    return rows @ images @ columns.T


@functools.lru_cache(maxsize=32)
def _blur_matrix(size: int, deviation: float) -> torch.Tensor:
    """Weights (size, size) in float64: row i holds the weight of every pixel of a line in its blurred pixel i."""
    radius = int(TRUNCATE * deviation + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets / deviation).double() ** 2)
    sources = (torch.arange(size)[:, None] + offsets).clamp(0, size - 1)
    weights = (kernel / kernel.sum()).expand(size, -1)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, sources, weights)


def _jpeg(images: torch.Tensor, quality: int, generators: list[torch.Generator]) -> torch.Tensor:
    """Compresses as JPEG with half the colour resolution, Pillow's default.

    Args:
        quality: libjpeg's, 1 to 100.
    """
    from PIL import Image

    def compress(pixels: np.ndarray) -> torch.Tensor:
        file = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
        with Image.open(file) as image:
            return torch.from_numpy(np.atleast_3d(np.asarray(image)).copy())

    pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())
    return _each(compress, list(pixels)).to(images.device).permute(0, 3, 1, 2)


def _contrast(images: torch.Tensor, factor: float, generators: list[torch.Generator]) -> torch.Tensor:
    """Scales the contrast.

    Args:
        factor: applied to each pixel's distance from the mean of its channel over the image.
    """
    images = _exact(images)
    mean = images.mean((2, 3), keepdim=True)
    return (images - mean) * factor + mean


def _brightness(images: torch.Tensor, added: float, generators: list[torch.Generator]) -> torch.Tensor:
    """Brightens in the HSV colour space: hue and saturation stay, black becomes grey.

    Args:
        added: to the value of each pixel, its largest channel in [0, 1].
    """
    images = images.float()
    value = images.amax(1, keepdim=True)
    brighter = (value + 255 * added).clamp(max=255)
    return torch.where(value > 0, images * (brighter / value.clamp(min=1)), brighter)


def _occlusion(images: torch.Tensor, share: float, generators: list[torch.Generator]) -> torch.Tensor:
    """Blackens random patches of a grid.

    Args:
        share: of the patches.
    """
    height, width = images.shape[2:]
    grid = DROP_GRIDS[min(height, width) > SMALL]
    dropped = round(share * grid**2)
    order = _each(lambda generator: torch.randperm(grid**2, generator=generator), generators)
    kept = torch.ones_like(order, dtype=torch.bool).scatter_(1, order[:, :dropped], False).unflatten(1, (grid, grid))
    row, column = (torch.arange(size) * grid // size for size in (height, width))
    return images * kept[:, row][:, :, column][:, None].to(images.device)


def _patch_shuffle(images: torch.Tensor, grid: tuple[int, int], generators: list[torch.Generator]) -> torch.Tensor:
    """Shuffles equal patches; pixels left over at the border stay in place.

    Args:
        grid: rows and columns of patches.
    """
    height, width = images.shape[2:]
    rows, columns = min(grid[0], height), min(grid[1], width)
    h, w = height // rows, width // columns
    top, left = (height - rows * h) // 2, (width - columns * w) // 2
    result = images.clone()
    inner = result[:, :, top : top + rows * h, left : left + columns * w]
    order = _each(lambda generator: torch.randperm(rows * columns, generator=generator), generators).to(images.device)
    patches = inner.unflatten(3, (columns, w)).unflatten(2, (rows, h)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    moved = patches.gather(1, order[:, :, None, None, None].expand_as(patches))
    inner.copy_(moved.unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3))
    return result


def _exact(images: torch.Tensor) -> torch.Tensor:
    """Converts to float64 if the device has it.

    Sums whose order depends on the batch size, and TF32 matrix products, would sometimes round to other levels.
    """
    return images.to(widest_float(images.device))


def _each(function: Callable, items: list) -> torch.Tensor:
    """Applies a function to each item, by one thread per core, and stacks the results."""
    return torch.stack(list(_threads().map(function, items)))


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores())


@dataclass(frozen=True)
class Corruption:
    """A way to corrupt images.

    Attributes:
        function: of uint8 images (N, C, H, W), the parameter, and a generator for each image. Returns uint8 images, or
            floats in levels of 0 to 255, which `corrupt` rounds and clips.
        small, large: parameters of the strengths 1 to 5, for images up to 64 px and for larger ones.
        in_pixels: the parameter is a length in pixels, given for images of 32 and 224 px.
    """

    function: Callable[[torch.Tensor, float, list[torch.Generator]], torch.Tensor]
    small: tuple
    large: tuple
    in_pixels: bool = False


DROPPED = (0.1, 0.2, 0.3, 0.4, 0.5)
GRIDS = ((2, 2), (2, 4), (4, 4), (4, 8), (8, 8))
CORRUPTIONS = {
    "gaussian_noise": Corruption(_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": Corruption(_shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "gaussian_blur": Corruption(_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0), (1.0, 2.0, 3.0, 4.0, 6.0), in_pixels=True),
    "jpeg": Corruption(_jpeg, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
    "contrast": Corruption(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "brightness": Corruption(_brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "occlusion": Corruption(_occlusion, DROPPED, DROPPED),
    "patch_shuffle": Corruption(_patch_shuffle, GRIDS, GRIDS),
}
