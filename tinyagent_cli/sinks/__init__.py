"""Write events to files and streams."""
