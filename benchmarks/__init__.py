"""Measurements of headstart against named baselines, each run as `python -m benchmarks.<name>`."""

from contextlib import suppress

with suppress(ImportError):  # PyTorch 2.14 crashes where TensorFlow 2.21 was imported before it
    import torchvision  # noqa: F401
