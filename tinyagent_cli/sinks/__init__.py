"""From an event to a file or a stream."""
