"""StreamEvent -> HttpEvent: one file or folder a protocol, found by the first octets (demux)."""
