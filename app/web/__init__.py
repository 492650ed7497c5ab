"""HTTP in: routes and pages. Each reads a request, calls a step or a table, and shapes the answer."""
