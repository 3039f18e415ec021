"""Metrics in two halves: counts of a shard that merge and are stored (a partial), then the score.

`objects` and `regions` select what a metric is given from the tables, `engines` match and accumulate COCO's way, `coco`
and `semantic` make partials and scores of it. `tasks` is the table of what is scored and how. `truth_by_shard` splits a run's
truth, `truth_version` chooses it, `stage` makes a shard's partials on a worker, `partials` is their form on disk,
`partial_store` brings those of a run together. One shard or seven, in any order,
give the same score to the bit.
"""
