"""Side-by-side benchmarks of ocimodel against the other tools that move OCI artifacts."""
