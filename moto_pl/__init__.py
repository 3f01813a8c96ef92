"""MOTO: from a handful of image demonstrations to a policy, with PyTorch Lightning.

Importing this registers the environments with gymnasium; neither a simulator nor torch is imported for it.
"""

from moto_pl import envs as envs

__version__ = "0.1.0"
