"""Everything Ray: tasks, actors, embedded services, the supervisor, the command line. The composition root."""
