"""Detectors written here, from their papers: each module, or folder with a module `spec`, that defines a SPEC is in the zoo."""
