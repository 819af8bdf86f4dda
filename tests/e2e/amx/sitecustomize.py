"""On PYTHONPATH, this does for an engine without the plugin what the plugin does for the others: see `plugin.amx`."""

import torch

torch.cpu._init_amx()
