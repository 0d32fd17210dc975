"""One thread of torch for every test: tensors here are small, and threads that wait for one another cost more."""

import torch

torch.set_num_threads(1)
