"""Output for people: text, tables and activity on a terminal."""
