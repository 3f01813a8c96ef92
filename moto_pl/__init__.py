"""MOTO: from a handful of image demonstrations to a policy, with PyTorch Lightning."""

__version__ = "0.1.0"
