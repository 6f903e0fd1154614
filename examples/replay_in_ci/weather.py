"""A tool to test. Record a run with it again: see test_weather.py."""

from tinyagent import tool


@tool(read_only=True)
def weather(city: str) -> str:
    """Return the weather in a city."""
    return f"It is sunny in {city}."
