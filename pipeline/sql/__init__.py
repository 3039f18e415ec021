"""The tables of a warehouse as SQL views.

- `views`: each view and the files below it
- `committed_files`: a read-only file system of committed files, which DuckDB is given
"""
