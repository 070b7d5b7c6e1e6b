"""Classifies image files with a trained checkpoint."""

from __future__ import annotations

import torch

from assembly.trained import read_alike, read_trained
from data_transform import Fit, Normalize, image_transform
from image_datasets.decode import read_pixels
from image_datasets.reading import Reading
from settings.checks import Asked
from training import devices

SHOWN = 5  # classes


@torch.inference_mode()
@devices.without_tf32()
def run_prediction(asked: Asked) -> None:
    """Prints the most probable classes of each image file, with their probabilities. Raises BadRequest."""
    hardware = asked.settings.hardware
    path, *files = asked.request.to_do.predict or []
    model, content = read_trained(path)
    device = devices.set_up(hardware.device, hardware.gpu, eval_precision=hardware.eval_precision)
    fit = Fit.of(content["settings"]["resize_mode"], content["mean"])
    transform = image_transform(None, content["img_size"], content["eval_crop"], fit)
    reading = Reading.of(vars(read_alike(asked.settings.data, content["settings"])))
    images = [transform(read_pixels(file, content["in_chans"], reading)) for file in files]
    normalize = Normalize(tuple(content["mean"]), tuple(content["std"]), device)
    with devices.autocast(device, hardware.eval_precision):
        logits = model.to(device)(normalize(torch.stack(images).to(device)))
    probabilities = logits.float().softmax(1).cpu()
    names = content["class_names"]
    top = probabilities.topk(min(SHOWN, probabilities.shape[1]))
    for file, values, classes in zip(files, top.values.tolist(), top.indices.tolist(), strict=True):
        print(file)
        for value, index in zip(values, classes, strict=True):
            print(f"  {100 * value:6.2f} %  {names[index] if names else f'class {index}'}")
