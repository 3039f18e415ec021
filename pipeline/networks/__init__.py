"""Which network, with which weights.

- `resolve`: the network that a configuration names, every byte of it named by a digest
- `checkpoints`: folders of checkpoints, and the newest complete one
- `weights`: reading weight files without executing code
- `labels`: the model's labels matched to the dataset's categories
- `named_values`: options given as NAME=VALUE
- `precision`, `compilation`: what `--precision auto` means here; `torch.compile`
"""
