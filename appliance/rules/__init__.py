"""Message -> Message or nothing: what the user's privacy rules leave of a call."""
