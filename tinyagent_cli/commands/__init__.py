"""One file a command: options, checks, and the call to what does it."""
