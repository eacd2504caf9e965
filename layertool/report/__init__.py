"""One page for a set of results: figures, tables, where they come from, and how they were made.

``layertool.report.page.write`` makes it; ``inputs`` reads what it is made of.
"""
