"""Documents on the wire, parsed once at the edge into frozen values. No I/O, no third party."""
