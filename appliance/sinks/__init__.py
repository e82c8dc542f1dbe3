"""Batch -> outside. One file each."""
