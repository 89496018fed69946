"""The operations: each gathers, decides, acts, and returns what it did. This is the public API."""
