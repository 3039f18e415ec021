"""Training: from dataset tables to a checkpoint that prediction takes without further options.

::

    config ──▶ job (labels, split, checks: before the first step) ──▶ a worker or many, each with the same loop ──▶ checkpoint

- `config`, `prepare`, `job`: the settings, the checks before the first step, and what travels to the workers
- `truth`, `samples`, `order`, `data`: annotation rows to targets, and which images make up a step
- `objectives`, `optimizers`, `ema`, `transfer`, `stepper`: the losses, a step
- `loop`, `exchange`, `failures`: the steps of a run, what its workers exchange, why it cannot continue
- `closed_form`: networks that are fitted in one pass, without gradients
- `validation`, `scores`, `curves`, `charts`: the metrics on the way, as rows and as a picture
- `state`: checkpoints on the way, from which a run resumes bit-identically
- `records`: the run's folder, what is written there and when it is complete

A step is cut into slots, one for each batch of the most workers; however many workers there are, they compute the same
slots. So the number of workers changes a run by rounding alone, and may change while it goes on; but for the running
statistics of batch norms, which are those of the first worker's images.

The loop is plain torch and torch.distributed; `shardlens.pipeline.executors.ray_train` runs it on a cluster.
"""
