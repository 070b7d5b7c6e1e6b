"""Small images for tests: noise and smooth colours."""

from __future__ import annotations

import torch
from PIL import Image


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def smooth_image(height: int, width: int, chans: int = 3) -> torch.Tensor:
    """uint8 (chans, height, width) without ties between pixels, which an operation may round either way."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    planes = [128 + 90 * torch.sin(0.3 * (c + 1) * x + 0.5 * y + c) + 3 * x - 2 * y for c in range(chans)]
    return torch.stack(planes).clamp(0, 255).to(torch.uint8)


def pil_image(width: int, height: int, mode: str = "RGB") -> Image.Image:
    chans = len(Image.new(mode, (1, 1)).getbands())
    pixels = random_images(height, width, chans).numpy()
    return Image.fromarray(pixels[..., 0] if chans == 1 else pixels)
