"""The command line: parse flags, call one operation, print. The only place that knows typer."""
