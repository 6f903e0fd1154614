"""From an event to what a person sees."""
