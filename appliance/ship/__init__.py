"""Calls on their way out: bundles, queue, retries."""
