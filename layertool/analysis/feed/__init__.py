"""The thin layer between stores and metrics: it feeds arrays to pure functions and makes result rows of what they return."""
