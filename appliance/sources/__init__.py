"""Outside -> batches of frames: one file a source."""
