"""Several Ray nodes: what is spread over them, and what survives the loss of one."""
