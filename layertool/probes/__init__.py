"""Non-parametric probes: pure functions on arrays."""
