"""Training: from dataset tables to a checkpoint that prediction takes without further words.

::

    config ──▶ job (labels, split, checks: before the first step) ──▶ a worker or many, each with the same loop ──▶ checkpoint

- `config`, `job`: what to train, and what of it every worker has to agree on
- `truth`, `samples`, `order`, `data`: annotation rows to targets, and which images make up a step
- `objectives`, `optimizers`, `ema`, `transfer`, `stepper`: the losses, a step
- `loop`, `exchange`, `failures`: the steps of a run, what its workers tell each other, why it cannot go on
- `validation`, `scores`, `curves`: the figures on the way, as rows and as a picture
- `state`: checkpoints on the way, from which a run goes on to the bit
- `records`: the run's folder, what is written there and when it is whole

A step is cut into slots, one for each batch of the most workers; however many workers there are, they compute the same
slots. So the number of workers changes a run by rounding alone, and may change while it goes on; but for the running
statistics of batch norms, which are those of the first worker's images.

The loop is plain torch and torch.distributed; `shardlens.pipeline.executors.ray_train` runs it on a cluster.
"""
