"""The HTTP API: routes and pages. A route reads the request, calls a step or a table, and builds the response."""
