"""Places that hold artifacts, and the one algorithm that moves artifacts between them."""
