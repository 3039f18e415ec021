"""Losses that more than one network shares, each with its paper."""
