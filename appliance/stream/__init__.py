"""Segment -> StreamEvent: TCP reassembly of connections seen from outside (RFC 9293)."""
