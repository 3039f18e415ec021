"""From images in object storage to queryable predictions and checked metrics.

::

    images, annotations ──ingest──▶ dataset tables ──plan──▶ shards ──predict──▶ predictions ──evaluate──▶ metrics
                                          └─────────train──▶ checkpoint ┘             └──query: SQL over all tables

One flat file for each command says what it does, in order; the folders hold its parts:

- `storage`: reading and writing anywhere
- `executors`: where stages run: in this process, on Ray
- `warehouse`: tables, dataset versions, atomic runs
- `annotations`: formats read into dataset tables
- `images`: from rows of the images table to batches of pixels
- `masks`: masks as run lengths
- `networks`: which network, with which weights
- `inference`: from batches to rows, in a worker
- `metrics`: mergeable statistics of a shard, then the score
- `sql`: the tables as SQL views
- `training`: from dataset tables to a checkpoint
- `cli`: the command line
"""
