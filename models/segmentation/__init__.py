"""Segmenters written here, from their papers: each module that defines a SPEC, or several SPECS, is in the zoo."""
