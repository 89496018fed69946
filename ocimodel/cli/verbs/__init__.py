"""One thin file per verb. Each imports its operation when it runs, so that --help stays fast."""
