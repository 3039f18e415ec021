"""Training: from dataset tables to a checkpoint that prediction takes without further words.

::

    config ──▶ job (labels, split, checks: before the first step) ──▶ a worker or many, each with the same loop ──▶ checkpoint

- `config`, `job`: what to train, and what of it every worker has to agree on
- `truth`, `samples`, `order`, `data`: annotation rows to targets, and which images make up a step
- `objectives`, `optimizers`, `loop`: the losses, the steps
- `records`: the checkpoint's folder, what is written there and when it is whole

The loop is plain torch and torch.distributed; `pipeline.executors.ray_train` runs it on a cluster.
"""
