"""The data lake: rows, files, and keeping them in bounds."""
