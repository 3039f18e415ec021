"""The way of the data, from images in object storage to queryable predictions and checked metrics.

::

    images, annotations ──ingest──▶ dataset tables ──plan──▶ shards ──predict──▶ predictions ──evaluate──▶ metrics
                                          └─────────train──▶ checkpoint ┘             └──query: SQL over all tables

- `uris`, `faults`, `storage`: places, what can go wrong with them, and reading and writing there
- `tables`, `warehouse`: the schemas, and where each table lies
- `annotations`, `masks`, `datasets`: formats read into dataset tables (ingest)
- `shards`, `fetch`, `colors`, `png`, `decode`, `frames`, `batches`, `upload`: from rows of the images table to batches of
  pixels, on a GPU or not
- `weights`, `networks`, `categories`, `precision`, `forward`, `rows`, `predictor`, `clock`: from batches to rows, in a worker
- `allocator`, `compilation`: what a worker sets before it begins: its memory, `--compile`
- `segmenter`, `tiles`, `merging`, `spans`, `postprocess`: within `forward`: class maps, large images, regions
- `runs`, `predict`, `tally`, `poison`, `retry`: whole or not there: commit, resume, quarantine
- `metrics`, `evaluate`: mergeable partials, then the score
- `training`: from dataset tables to a checkpoint
- `query`, `exports`: SQL over committed runs; COCO files in and out
- `execution`, `executors`: what a stage is, and where it runs (here, on Ray)
- `cli`: the command line
"""
