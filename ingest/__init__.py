"""What a document goes through. Plain Python: no Ray, no HTTP."""
