"""What lies where in a warehouse, and what makes a run atomic.

- `layout`: the folders of datasets, runs, tables and checkpoints
- `tables`: schemas of the Parquet tables
- `datasets`: dataset versions, opened and listed
- `documents`: the JSON documents as frozen records
- `runs`: begin, resume and commit a run (`records`, `parts`)
"""
