"""HTTP/1.0 and HTTP/1.1 (RFC 9112) as seen by a tap: never raises, survives holes, flags what is odd."""
