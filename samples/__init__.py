"""Sample documents: original texts and the script that prints them as PDF files."""
