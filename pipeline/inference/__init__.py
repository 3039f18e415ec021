"""From batches to rows, in a worker.

- `options`: tiles, views, ensembles, post-processing, as asked for
- `forward`: the network's outputs of a batch; `semantic`, `tiles`, `tile_merging`, `postprocess` within it
- `rows`: outputs as rows of the prediction tables
- `worker`: a loaded network that takes shards; `shard_work`: what it is asked and what it answers
- `shard_results`, `bisection`: the results of all shards, and which image kills its worker
"""
