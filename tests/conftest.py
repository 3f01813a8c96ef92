"""What all tests share."""

import os

import torch

# Tests run two at a time: with more threads than cores they only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
