"""Annotation formats: one reader each, all of them giving the same `Source`, which becomes a dataset's tables.

`formats` holds the readers by name: `coco`, `voc`, `label_maps` (masks), `plain` (none). They list images by `places`
(folders, prefixes, `tars`) and `pairing`; `inspection` reads headers and the images' own annotation files in workers;
`categories` and `assembly` make the tables and `problems` reports what was doubtful; `splits` joins several ingests.
"""
