"""The model as a function of images: what is compiled and searched for, and what is not."""

import pytest
import torch
from torch import nn

from assembly.memory_trial import _trial_teacher
from assembly.trainee import lr_factor, make_forward
from settings import defaults
from settings.defaults import default_workers
from settings.groups import Settings


@pytest.fixture
def compiled(monkeypatch):
    """Records the sizes of the batches that run compiled, and the mode."""
    sizes = []

    def compile_model(model, mode):
        def run(images):
            sizes.append((len(images), mode))
            return model(images)

        return run

    monkeypatch.setattr(torch, "compile", compile_model)
    return sizes


def test_only_batches_of_the_usual_size_run_compiled_and_make_cudnn_search(compiled, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # as a teacher's last batch may have left it
    model = nn.Flatten()
    forward = make_forward(model, True, compile_model=True, batch_size=4, compile_mode="max-autotune")
    searched = []
    for size in (4, 3, 4, 5):
        assert torch.equal(forward(torch.ones(size, 3, 2, 2)), torch.ones(size, 12))
        searched.append(torch.backends.cudnn.benchmark)  # the backward pass reads it
    assert searched == [True, False, True, False] and compiled == [(4, "max-autotune")] * 2


def test_a_deterministic_run_never_searches(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    forward = make_forward(nn.Flatten(), channels_last=True, compile_model=False, batch_size=4)
    for size in (4, 3):
        forward(torch.ones(size, 3, 2, 2))
        assert not torch.backends.cudnn.benchmark


def test_without_channels_last_the_model_gets_contiguous_images():
    class Look(nn.Module):
        def forward(self, images):
            return images.is_contiguous()

    images = torch.ones(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert make_forward(Look(), channels_last=False, compile_model=False)(images)
    assert not make_forward(Look(), channels_last=True, compile_model=False)(images)


def test_a_trial_of_memory_counts_the_teacher_if_it_takes_such_images():
    images = torch.zeros(2, 3, 32, 32)
    assert _trial_teacher(None, 10, images) is None
    assert _trial_teacher("resnet20", 10, images) is not None
    assert _trial_teacher("torchvision/inception_v3", 10, images) is None  # takes 299 px; the run resizes for it


@pytest.mark.parametrize(("processes", "most"), [("1", 24), ("2", 12), ("1000", 1)])
def test_processes_of_one_machine_share_its_cores_for_loading(monkeypatch, processes, most):
    monkeypatch.setattr("settings.defaults.cores", lambda: 24)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert default_workers(None) == most
    assert default_workers(7) == 7
    monkeypatch.setattr("settings.defaults.cores", lambda: 500)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert default_workers(None) == 24


@pytest.mark.parametrize(
    ("optimizer", "given", "factor"),
    [("sgd", None, 3), ("adamw", None, 3**0.5), ("lamb", None, 3**0.5), ("adamw", "linear", 3), ("lion", None, 3)],
)
def test_a_learning_rate_per_n_images_is_scaled_as_in_timms_script(optimizer, given, factor):
    values = {"optimizer": optimizer, "lr_base_size": 256, "lr_base_scale": given, "batch_size": 128, "accumulate": 6}
    settings = Settings.of(values)
    assert lr_factor(settings.replace(**defaults.optimization_defaults(settings)).optimization) == pytest.approx(factor)


def test_a_learning_rate_is_as_given_otherwise():
    assert lr_factor(Settings.of({"batch_size": 512}).optimization) == 1
