"""The work on a document's content: parse, read, cut, embed. No stores, no jobs."""
