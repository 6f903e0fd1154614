"""From the bytes of a reply to assistant events and a message, for every protocol."""
