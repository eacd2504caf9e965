"""The thin layer between stores and metrics: it feeds arrays to the pure functions of ``analysis`` and ``probes`` and makes
result rows of what they return, the same way for every metric."""
