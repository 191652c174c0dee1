"""The papers' tables as data, and as a document with the commands that reproduce their rows."""
