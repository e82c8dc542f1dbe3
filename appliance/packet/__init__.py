"""Frame -> Segment: out of links, tunnels and fragments (RFC 791, 8200, 7348, 8926, 2784)."""
