"""Plugins: find, load, install, check and create them."""
