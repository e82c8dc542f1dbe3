"""VPC Traffic Mirroring target that turns packets into whole API calls."""
