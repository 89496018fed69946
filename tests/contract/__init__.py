"""One suite for every store; conftest.py has the table of stores."""
