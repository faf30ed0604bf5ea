"""The routes of the HTTP interface, a noun a file. Each does one thing, in the words of the stores."""
