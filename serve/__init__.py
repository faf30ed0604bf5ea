"""The HTTP interface: schemas, problems, routes, and the client that speaks it."""
