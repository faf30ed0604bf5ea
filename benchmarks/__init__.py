"""Measurements: each prints ratios from one run, against a plain loop over the same libraries."""
