"""Normalised batches against torchvision's, and the memory they reuse."""

from __future__ import annotations

import pytest
import torch
from sample_images import random_images
from torchvision.transforms.v2 import functional as TF

from data_transform import Buffers, Normalize, denormalize

CPU = torch.device("cpu")


@pytest.mark.parametrize(("mean", "std"), [((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)), ((0.3,), (0.35,))])
def test_normalised_images_equal_torchvisions(mean, std):
    images = random_images(4, len(mean), 5, 7)
    result = Normalize(mean, std, CPU)(images)
    expected = TF.normalize(images.double() / 255, mean, std)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=2e-6)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(Normalize(mean, std, CPU)(channels_last), result)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_rounded_result_of_float32(dtype):
    images, mean, std = random_images(4, 3, 5, 7), (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    result = Normalize(mean, std, CPU, dtype)(images)
    assert result.dtype == dtype and result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, Normalize(mean, std, CPU)(images).to(dtype))


@pytest.mark.parametrize(("mean", "std"), [((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)), ((0.3,), (0.35,))])
def test_denormalised_images_are_those_that_were_normalised(mean, std):
    images = random_images(4, len(mean), 5, 7)
    normalised = Normalize(mean, std, CPU)(images)
    torch.testing.assert_close(denormalize(normalised, mean, std), images / 255)
    assert torch.equal(denormalize(normalised[2], mean, std), denormalize(normalised, mean, std)[2])
    far = torch.tensor([-9.0, 9.0]).expand(len(mean), 1, 2)
    assert denormalize(far, mean, std).tolist() == [[[0.0, 1.0]]] * len(mean)


def test_memory_is_used_again_only_when_no_tensor_refers_to_it():
    buffers = Buffers()
    first, second = buffers.take((2, 5)).fill_(1), buffers.take((2, 5)).fill_(2)
    assert (first == 1).all() and (second == 2).all()
    view = second.view(-1)[3:]
    del second
    buffers.take((2, 5)).fill_(3)
    assert (first == 1).all() and (view == 2).all()
    del first, view
    buffers = Buffers()
    array = buffers.take((2, 5)).fill_(4).numpy()
    buffers.take((3, 3)).fill_(5)
    assert (array == 4).all()
    known = {id(memory) for memory, _ in buffers.lent}
    del array
    held = buffers.take((2, 5)), buffers.take((3, 2))  # a smaller batch fits as well
    assert {id(memory) for memory, _ in buffers.lent} == known
    assert len({tensor.data_ptr() for tensor in held}) == 2


def test_normalised_batches_do_not_overwrite_those_that_are_still_held():
    normalize = Normalize((0.5,), (0.25,), torch.device("cpu"))
    images = [random_images(6, 9, 1)[None].permute(0, 3, 1, 2) for _ in range(5)]
    batches = [normalize(image) for image in images]
    for image, batch in zip(images, batches, strict=True):
        torch.testing.assert_close(batch, (image / 255 - 0.5) / 0.25)
