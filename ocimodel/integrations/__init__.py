"""Adapters that other programs load by their entry points."""
